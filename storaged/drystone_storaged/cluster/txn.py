"""Optimistic transactions: read, decide, compare-and-swap, again when somebody was faster."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

from drystone_common.errors import UnavailableError
from drystone_storaged.cluster.codec import decode
from drystone_storaged.cluster.store import KeyValue, MetadataStore

ATTEMPTS_MAX: Final = 64  # somebody else progressed each time; so many in a row means a defect

T = TypeVar("T")
RecordT = TypeVar("RecordT")


class Unchanged(Generic[T]):
    """What was read last, for as long as the store does not change at all.

    One question in place of many: an idle cluster's status is asked for every few seconds. Only
    the very revision counts: a deletion is in no answer to "what is newer".
    """

    def __init__(self, store: MetadataStore, read: Callable[[], Awaitable[T]]) -> None:
        self._store = store
        self._read = read
        self._last: tuple[int, T] | None = None

    async def get(self) -> T:
        """The answer as of now, or later."""
        at = await self._store.revision()
        last = self._last
        if last is not None and last[0] == at:
            return last[1]
        # What is written while it reads makes a revision above `at`: it is read again then.
        value = await self._read()
        self._last = (at, value)
        return value

    def forget(self) -> None:
        """Read anew in any case: a store that is put back counts up to the same revision again."""
        self._last = None


async def retrying(attempt: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Run ``attempt`` until it gives something; None = the compare failed, read again."""
    for _ in range(ATTEMPTS_MAX):
        result = await attempt()
        if result is not None:
            return result
    raise UnavailableError(f"{what} is changed too often at the same time", code="contended")


async def read_record(
    store: MetadataStore, key: str, cls: type[RecordT]
) -> tuple[RecordT, KeyValue] | None:
    """Read and decode one key."""
    found = await store.get(key)
    return None if found is None else (decode(cls, found.value), found)


async def read_all(store: MetadataStore, prefix: str, cls: type[RecordT]) -> list[RecordT]:
    """Read and decode every record of a prefix that is known to be small."""
    out: list[RecordT] = []
    after = ""
    while True:
        page = await store.range(prefix, after=after)
        out += [decode(cls, item.value) for item in page.items]
        if not page.more:
            return out
        after = page.items[-1].key
