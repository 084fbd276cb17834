"""What is asked about moves: emptying drives, and what balancing a pool would do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from drystone_common.errors import ConflictError
from drystone_common.logs import get_logger
from drystone_storaged.cluster import moves
from drystone_storaged.cluster.drives import DriveService
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.membership_service import MembershipService
from drystone_storaged.cluster.nodes import NodeService
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.places import domains, standing_spec
from drystone_storaged.cluster.records import Drive, DriveState, Pool
from drystone_storaged.cluster.room import Forecast, Space, forecast
from drystone_storaged.cluster.store import MetadataStore
from drystone_storaged.manager.aims import Place
from drystone_storaged.manager.drivestats import DriveStats
from drystone_storaged.manager.upkeep import Upkeep

log = get_logger(__name__)

NAMED_MAX: Final = 5  # drives in a message


@dataclass(frozen=True, slots=True)
class EvacuationDeps:
    """What the desk works with."""

    store: MetadataStore
    membership: MembershipService
    drives: DriveService
    nodes: NodeService
    place: Place
    stats: DriveStats
    upkeep: Upkeep


class EvacuationDesk:
    """Empties drives, and calls that off."""

    def __init__(self, deps: EvacuationDeps) -> None:
        self._deps = deps
        # Two at once would each count on the room that the other one takes.
        self._busy = asyncio.Lock()

    async def begin(self, drives: Sequence[Drive]) -> list[Drive]:
        """Have these drives emptied together; refused where what they hold can go nowhere."""
        for drive in drives:
            if drive.state is DriveState.GONE:
                raise ConflictError(
                    f"drive {drive.id} was forgotten",
                    code="drive_gone",
                    hint="nothing is on it any more; see `drystone drive list`",
                )
        async with self._busy:
            await self._check_room(drives)
            changed = [await self._deps.drives.set_evacuating(d.id, wanted=True) for d in drives]
        log.info("drives are emptied", drives=[d.id for d in drives])
        self._deps.upkeep.bell.ring()
        return changed

    async def cancel(self, drives: Sequence[Drive]) -> list[Drive]:
        """Keep these drives: what left stays away, what is on its way is called off."""
        changed = [
            await self._deps.drives.set_evacuating(d.id, wanted=False)
            for d in drives
            if d.state is not DriveState.GONE
        ]
        nodes = {n.uuid: n for n in await self._deps.nodes.list("server")}
        for drive in changed:

            def plan(
                now: MapState, back: int = drive.id
            ) -> tuple[Mapping[PgRef, PgRecord], tuple[PgRef, ...]]:
                where = {pool.id: domains(pool, now, nodes) for pool in now.pools.values()}
                return moves.plan_undo(now, where, back=back), ()

            await self._deps.membership.edit(plan, "an evacuation's end")
        log.info("drives are kept", drives=[d.id for d in changed])
        self._deps.upkeep.bell.ring()
        return changed

    async def forecast(self, pool: Pool) -> Forecast:
        """What balancing a pool would move."""
        state, aim = await self._deps.upkeep.plan(pool)
        wanted = {pool.id: aim.wanted} if aim else {}
        return forecast(state, wanted, self._spaces(state))

    async def _check_room(self, drives: Sequence[Drive]) -> None:
        """Everything that is emptied already counts too: it needs room of its own."""
        state = await read_state(self._deps.store)
        state.require()  # what the drives hold, and what is where, has to be known
        nodes = {n.uuid: n for n in await self._deps.nodes.list("server")}
        leaving = frozenset(d.id for d in drives) | moves.evacuating(state)
        emptied = {n: replace(state.drives[n], evacuating=True) for n in leaving}
        then = replace(state, drives=state.drives | emptied)
        wanted = {}
        for pool in state.pools.values():
            held = {r: pg for r, pg in state.pgs(pool.id).items() if leaving & set(pg.target)}
            if not held:
                continue
            spec = standing_spec(pool, then, nodes, leaving)
            placed = await asyncio.to_thread(self._deps.place, spec) if spec else []
            if not placed or any(len(placed[r.pg]) < len(pg.target) for r, pg in held.items()):
                raise _no_room(
                    drives,
                    f"pool {pool.name} has no other drives in enough domains "
                    f"({pool.failure_domain.value}) for {pool.width} copies",
                    "add a drive there first",
                )
            wanted[pool.id] = placed
        found = forecast(state, wanted, self._spaces(state), leaving)
        if full := found.overfull(self._spaces(state)):
            shown = ", ".join(str(number) for number in full[:NAMED_MAX])
            raise _no_room(
                drives,
                f"drives that would take {found.bytes} bytes would be too full ({shown})",
                "add drives, or delete volumes that are not needed",
            )

    def _spaces(self, state: MapState) -> dict[int, Space]:
        known = {number: self._deps.stats.get(number) for number in state.drives}
        return {n: Space(f.capacity, f.used + f.reserved) for n, f in known.items() if f}


def _no_room(drives: Sequence[Drive], why: str, hint: str) -> ConflictError:
    named = ", ".join(f"{d.id} on {d.node_name}" for d in drives[:NAMED_MAX])
    return ConflictError(
        f"what is on drive {named} can go nowhere: {why}", code="no_room", hint=hint
    )
