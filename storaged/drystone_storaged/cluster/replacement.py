"""Lost drives leave for good, new ones take their places: the transactions of ``replace``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from drystone_common.errors import ConflictError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster import replace as planner
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.drives import DriveService, EvidenceExpiredError
from drystone_storaged.cluster.leadership import Leadership
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.membership_service import Changed, MembershipService
from drystone_storaged.cluster.nodes import NodeService
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.placement import PlacementSpec
from drystone_storaged.cluster.records import Drive, DriveState, Pool
from drystone_storaged.cluster.store import Compare, MetadataStore, Put
from drystone_storaged.cluster.txn import read_record

Place = Callable[[PlacementSpec], Sequence[tuple[int, ...]]]
NAMED_MAX: Final = 3  # PGs in a message; their number says the rest


class ReplacementService:
    """Fills empty places and forgets drives. Every step may be cut off, and repeated."""

    def __init__(
        self,
        store: MetadataStore,
        leadership: Leadership,
        membership: MembershipService,
        drives: DriveService,
        place: Place,
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._membership = membership
        self._drives = drives
        self._nodes = NodeService(store)
        self._place = place

    async def refill(self) -> Changed:
        """Want drives that are up where a place is empty; they join by the join loop."""
        state = await read_state(self._store)
        # Where a drive stands that cannot be looked up is not known: no place is given away.
        if state.unreadable_drives or planner.is_whole(state):
            return Changed(state.revision, ())
        nodes = {n.uuid: n for n in await self._nodes.list("server")}
        specs = planner.placements_wanted(state, nodes)
        # Seconds for the largest pools: beside the loop that leases and commands live on.
        preferred = {s.pool: await asyncio.to_thread(self._place, s) for s in specs}

        def plan(now: MapState) -> tuple[Mapping[PgRef, PgRecord], tuple[PgRef, ...]]:
            return planner.plan_replacement(now, nodes, preferred), ()

        if not plan(state)[0]:
            await self._widen(state)
            return Changed(state.revision, ())
        return await self._membership.edit(plan, "a replacement")

    async def _widen(self, state: MapState) -> None:
        """A pool that has more copies than there was room for at first shall keep them."""
        for pool in state.pools.values():
            width = planner.wider(state, pool)
            if width == pool.width:
                continue
            found = await read_record(self._store, keys.pool(pool.id), Pool)
            if found is not None and found[0] == pool:
                # Faster than this was somebody whose change rings again: no second try here.
                await self._store.txn(
                    [self._leadership.compare(), Compare.mod(found[1].key, found[1].mod_revision)],
                    [Put(found[1].key, encode(replace(pool, width=width)))],
                )

    async def forget(self, which: str) -> Drive:
        """Remove a drive for good; what it holds counts no more, its number never returns.

        Refused while it serves, and while a PG counts it as in sync. First it leaves the PGs, so
        that it can join none; then its record says that it is gone.
        """
        drive = await self._drives.find(which)
        if drive.state is DriveState.GONE:
            return drive
        state = await read_state(self._store)
        drive = state.drives[drive.id]
        unchanged = Compare.mod(keys.drive(drive.id), state.drive_revisions[drive.id])

        def plan(now: MapState) -> tuple[Mapping[PgRef, PgRecord], tuple[PgRef, ...]]:
            _refuse(now, drive)
            only = frozenset([drive.id])
            pairs = ((ref, pg, planner.without(pg, only)) for ref, pg in now.pgs().items())
            return {ref: new for ref, pg, new in pairs if new is not pg}, ()

        gone = replace(drive, state=DriveState.GONE, reason="forgotten", ended=False)
        try:
            await self._membership.edit(plan, "forgetting a drive", [unchanged])
        except EvidenceExpiredError as error:
            raise _changed(drive) from error
        conditions = [self._leadership.compare(), unchanged]
        done = await self._store.txn(conditions, [Put(keys.drive(drive.id), encode(gone))])
        if not done.succeeded:
            raise _changed(drive)
        return gone


def _changed(drive: Drive) -> ConflictError:
    return ConflictError(
        f"drive {drive.id} changed meanwhile",
        code="contended",
        hint=f"see `drystone drive show {drive.id}`, then repeat",
    )


def _refuse(state: MapState, drive: Drive) -> None:
    if state.drives[drive.id].state is DriveState.UP:
        raise ConflictError(
            f"drive {drive.id} on {drive.node_name} is up",
            code="drive_in_use",
            hint=f"stop the server of {drive.node_name} first",
        )
    held = [ref for ref, pg in state.pgs().items() if drive.id in pg.insync]
    if held:
        shown = ", ".join(f"{state.pools[r.pool].name}/{r.pg}" for r in held[:NAMED_MAX])
        more = f" and {len(held) - NAMED_MAX} more" if len(held) > NAMED_MAX else ""
        raise ConflictError(
            f"drive {drive.id} counts as an in-sync copy of PGs {shown}{more}",
            code="drive_in_use",
            hint="bring the drive or another copy back; a PG whose only copy is lost for good "
            f"is given up with `drystone pool mark-lost {shown.partition(',')[0]} --yes`",
        )
