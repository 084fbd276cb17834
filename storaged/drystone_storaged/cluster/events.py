"""What happened in the cluster, as the metadata store remembers it: bounded, and cheap to keep.

It is for people. Nothing is decided by it, and nothing waits for it: what cannot be written while
the store is away or busy is written later or lost, and the log has it anyway.
"""

from __future__ import annotations

import contextlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from drystone_common.errors import DataError, InvalidArgumentError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.store import Delete, KeyValue, MetadataStore, Op, Put

KEEP: Final = 2_000  # some days of a busy cluster; half a MiB of the store
PRUNE: Final = 100  # at a time, which with as many new ones is one transaction (128 operations)
WRITE: Final = 25  # of one transaction: a storm takes its time, and what comes meanwhile coalesces
PENDING_MAX: Final = 500  # before they are written; more than that is a storm, told as a number
SAME_S: Final = 5.0  # in which the same thing again only counts
MESSAGE_MAX: Final = 500
NAME_MAX: Final = 120
SERIAL_DIGITS: Final = 8  # in hex, of an event's key: they come round after four thousand million
READ_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Event:
    """``s`` and ``last_s`` are wall clock, in whole seconds, of the first and the last time."""

    s: int
    last_s: int
    level: str
    """``Normal`` or ``Warning``, as Kubernetes has them."""
    kind: str
    object: str
    message: str
    count: int = 1


@dataclass(slots=True)
class _Open:
    """An event that may still be counted up; ``key`` is empty until it was written."""

    event: Event
    at_s: float
    key: str = ""
    changed: bool = True


class EventBook:
    """Takes events at any rate, writes at most one transaction at each ``flush``."""

    def __init__(
        self, store: MetadataStore, monotonic: Callable[[], float], wall: Callable[[], float]
    ) -> None:
        self._store = store
        self._monotonic = monotonic
        self._wall = wall
        self._open: OrderedDict[tuple[str, str], _Open] = OrderedDict()
        self._closed: list[tuple[str, Event]] = []
        self._keys: list[str] | None = None
        self._lost = 0
        self._made = 0
        self.on_note: list[Callable[[], None]] = []
        """Called when there is something to write."""

    async def read(
        self, *, since_s: int, level: str, limit: int, cursor: str
    ) -> tuple[list[tuple[str, Event]], str | None]:
        """What is written, as ``read_events``."""
        return await read_events(
            self._store, since_s=since_s, level=level, limit=limit, cursor=cursor
        )

    def note(self, kind: str, subject: str, message: str, level: str = "Normal") -> None:
        """Something happened; the same within seconds is one event with a count."""
        now, at = int(self._wall()), self._monotonic()
        which, message = (kind[:NAME_MAX], subject[:NAME_MAX]), message[:MESSAGE_MAX]
        known = self._open.get(which)
        if known is not None and at - known.at_s <= SAME_S:
            count = known.event.count + 1
            known.event = replace(
                known.event, last_s=now, message=message, level=level, count=count
            )
            known.changed = True
        elif self._waiting() >= PENDING_MAX:
            self._lost += 1
        else:
            self._close(which)
            self._open[which] = _Open(Event(now, now, level, *which, message), at)
        for call in self.on_note:
            call()

    async def flush(self) -> bool:
        """One transaction with the oldest that waits; gives whether there is more to do."""
        if self._keys is None:
            self._keys = await self._stored()
        if self._lost and self._waiting() < PENDING_MAX:
            lost, self._lost = self._lost, 0
            self.note("events_lost", "events", f"{lost} events in a storm were not kept", "Warning")
        batch = self._batch()
        surplus = self._keys[: max(0, min(PRUNE, len(self._keys) + len(batch) - KEEP))]
        ops: list[Op] = [Put(key, encode(event)) for key, event in batch]
        written = dict(batch)
        ops += [Delete(key) for key in surplus if key not in written]
        if not ops:
            return False
        await self._store.txn([], ops)
        self._settle(written, set(surplus) - written.keys())
        return self._waiting() > 0 or len(self._keys) > KEEP

    def clear(self) -> None:
        """Another manager writes from here on."""
        self._open.clear()
        self._closed.clear()
        self._keys, self._lost = None, 0

    def _waiting(self) -> int:
        return len(self._closed) + sum(each.changed for each in self._open.values())

    def _close(self, which: tuple[str, str]) -> None:
        """What is counted no further is written as it is, then forgotten."""
        old = self._open.pop(which, None)
        if old is not None and old.changed:
            self._closed.append((old.key or self._new_key(old.event), old.event))

    def _new_key(self, event: Event) -> str:
        # Sorted by the second of the first time, then as they came; the rest tells the managers of
        # a change of leaders apart.
        self._made = (self._made + 1) % 16**SERIAL_DIGITS
        return keys.event(event.s, f"{self._made:0{SERIAL_DIGITS}x}{secrets.token_hex(2)}")

    def _batch(self) -> list[tuple[str, Event]]:
        at = self._monotonic()
        for which in [w for w, each in self._open.items() if at - each.at_s > SAME_S]:
            self._close(which)
        for each in self._open.values():
            each.key = each.key or self._new_key(each.event)
        changed = [(each.key, each.event) for each in self._open.values() if each.changed]
        return [*self._closed, *changed][:WRITE]

    def _settle(self, written: dict[str, Event], removed: set[str]) -> None:
        # By the event too: it may have been counted up while it was written.
        self._closed = [pair for pair in self._closed if written.get(pair[0]) != pair[1]]
        for each in self._open.values():
            if written.get(each.key) == each.event:
                each.changed = False
        kept = set(self._keys or ()) - removed
        self._keys = sorted(kept | written.keys())

    async def _stored(self) -> list[str]:
        found: list[str] = []
        after = ""
        while True:
            page = await self._store.range(keys.EVENTS, after=after, limit=READ_PAGE)
            found += [item.key for item in page.items]
            if not page.more:
                return found
            after = page.items[-1].key


async def read_events(
    store: MetadataStore, *, since_s: int, level: str, limit: int, cursor: str
) -> tuple[list[tuple[str, Event]], str | None]:
    """Events with their ids from a moment on, oldest first, and where the next page begins."""
    after = keys.event(max(0, since_s), "")
    if cursor:
        after = keys.EVENTS + cursor
        if not keys.nameable(cursor):
            raise InvalidArgumentError("the cursor is not one of ours", code="invalid_cursor")
    found: list[tuple[str, Event]] = []
    while True:
        page = await store.range(keys.EVENTS, after=after, limit=READ_PAGE)
        for item in page.items:
            event = _read(item)
            if event is not None and level in ("", event.level):
                found.append((item.key.removeprefix(keys.EVENTS), event))
            if len(found) > limit:
                return found[:limit], found[limit - 1][0]
        if not page.more:
            return found, None
        after = page.items[-1].key


def _read(item: KeyValue) -> Event | None:
    # One that cannot be read is passed over: the others are wanted.
    with contextlib.suppress(DataError):
        return decode(Event, item.value)
    return None
