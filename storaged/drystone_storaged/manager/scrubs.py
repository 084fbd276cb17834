"""Scrubs and comparisons by themselves, within the period of each pool."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from drystone_common.errors import DataError, DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.leadership import Leadership, NotLeaderError
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.nodes import NodeService
from drystone_storaged.cluster.records import DriveState, Scrubbed
from drystone_storaged.cluster.store import Compare, Delete, MetadataStore, Put
from drystone_storaged.manager.bell import Bell
from drystone_storaged.manager.scrub_plan import ScrubRecords, plan
from drystone_storaged.manager.tasks import TaskService

log = get_logger(__name__)

LOOK_S: Final = 60.0  # periods are days: nothing needs it sooner


async def recorded(store: MetadataStore, prefix: str) -> dict[int, Scrubbed]:
    """What is recorded below a prefix; there are no more than drives or pools."""
    found = {}
    page = await store.range(prefix)
    while True:
        for item in page.items:
            # One that cannot be read counts as none, until the next scrub writes it anew.
            with contextlib.suppress(DataError):
                record = decode(Scrubbed, item.value)
                found[record.id] = record
        if not page.more:
            return found
        page = await store.range(prefix, after=page.items[-1].key)


@dataclass(frozen=True, slots=True)
class ScrubDeps:
    """What the loop works with."""

    store: MetadataStore
    leadership: Leadership
    nodes: NodeService
    tasks: TaskService
    wall: Callable[[], float]
    absences: Callable[[], Awaitable[Mapping[str, float]]]
    """By node uuid the wall time until which it may be away."""


class ScrubKeeper:
    """Begins what is due. ``records`` are what was read last."""

    def __init__(self, deps: ScrubDeps) -> None:
        self._deps = deps
        self.records = ScrubRecords()
        self.bell = Bell()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            if self._deps.leadership.leads:
                try:
                    await self.look()
                except NotLeaderError:
                    pass
                except DrystoneError as error:
                    log.warning("scrubs are not looked at, will try again", reason=str(error))
            await self.bell.wait(LOOK_S)

    def ended(self, kind: str, record: Scrubbed) -> None:
        """A task wrote this just now."""
        drives, pools = self.records.drives, self.records.pools
        if kind == "compare":
            self.records = ScrubRecords(drives, {**pools, record.id: record})
        else:
            self.records = ScrubRecords({**drives, record.id: record}, pools)

    def clear(self) -> None:
        """Nothing is known: this manager leads no more, or begins to."""
        self.records = ScrubRecords()

    async def recall(self) -> None:
        """Read what is recorded; copies that differ must not be forgotten by an election."""
        store = self._deps.store
        self.records = ScrubRecords(
            await recorded(store, keys.SCRUBS), await recorded(store, keys.COMPARES)
        )

    async def look(self) -> None:
        """Begin what is due now."""
        deps, now_s = self._deps, self._deps.wall()
        state = await read_state(deps.store)
        scrubs = await recorded(deps.store, keys.SCRUBS)
        compares = await recorded(deps.store, keys.COMPARES)
        live = [d.id for d in state.drives.values() if d.state is not DriveState.GONE]
        self.records = ScrubRecords(
            await self._noted(scrubs, live, keys.scrub, state.unreadable_drives),
            await self._noted(compares, state.pools, keys.compare, state.unreadable_pools),
        )
        if any(until_s > now_s for until_s in (await deps.absences()).values()):
            return  # somebody works there, and copies are about to be away
        await self._begin(state, now_s)

    async def _begin(self, state: MapState, now_s: float) -> None:
        tasks = [t for t in await self._deps.tasks.list() if t.state == "running"]
        running = (
            {int(t.subject) for t in tasks if t.kind == "scrub"},
            {int(t.subject) for t in tasks if t.kind == "compare"},
        )
        nodes = {n.uuid: n for n in await self._deps.nodes.list("server")}
        due = plan(state, nodes, self.records, running, now_s)
        for drive in due.drives:
            log.info("a scrub is due", drive=drive.id, node=drive.node_name)
            await self._deps.tasks.scrub(drive)
        if due.pool is not None:
            log.info("a comparison of copies is due", pool=due.pool.name)
            await self._deps.tasks.compare(due.pool)

    async def _noted(
        self,
        known: dict[int, Scrubbed],
        there: Iterable[int],
        key: Callable[[int], str],
        unreadable: Iterable[int],
    ) -> dict[int, Scrubbed]:
        """Records of what is there, new ones for what has none; those of what is gone go."""
        now_s, wanted = int(self._deps.wall()), set(there)
        found = {n: known.get(n) or Scrubbed(n, now_s) for n in sorted(wanted)}
        for number in wanted - known.keys():
            # A task may have ended meanwhile: what it wrote stays.
            await self._deps.store.txn(
                [Compare.absent(key(number))], [Put(key(number), encode(found[number]))]
            )
        for number in known.keys() - wanted - set(unreadable):
            await self._deps.store.txn([], [Delete(key(number))])
        return found
