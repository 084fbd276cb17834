"""Slow policies: drives that are out for too long, drives that are emptied, balance.

One look asks every planner in order and carries out what it says. The planners are pure and take
everything from the map, so that a new leader goes on where the old one was.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.cluster import moves, outs
from drystone_storaged.cluster.leadership import Leadership, NotLeaderError
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.membership_service import MembershipService
from drystone_storaged.cluster.moves import Aim
from drystone_storaged.cluster.nodes import NodeService
from drystone_storaged.cluster.outs import Times
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.places import domains, standing_spec
from drystone_storaged.cluster.records import Drive, Node, Pool, Rebalance
from drystone_storaged.cluster.store import MetadataStore
from drystone_storaged.manager.aims import Aims, Place
from drystone_storaged.manager.bell import BACKSTOP_S, Bell
from drystone_storaged.manager.downs import Downs

log = get_logger(__name__)

LOOK_S: Final = 5.0  # while something is out or on its way: a clock rings nobody
PAUSE_S: Final = 0.2  # between two looks: a storm of changes costs five reads of the map a second

Planner = Callable[[MapState], Mapping[PgRef, PgRecord]]


async def nobody_is_expected_away() -> Mapping[str, float]:
    """No node has leave of absence."""
    return {}


@dataclass(frozen=True, slots=True)
class UpkeepDeps:
    """What the loop works with."""

    store: MetadataStore
    leadership: Leadership
    membership: MembershipService
    nodes: NodeService
    place: Place
    retire: Callable[[MapState, Drive, Mapping[PgRef, PgRecord]], Awaitable[bool]]
    """Have a live drive leave these PGs; True = it did."""
    monotonic: Callable[[], float]
    wall: Callable[[], float]
    absences: Callable[[], Awaitable[Mapping[str, float]]] = nobody_is_expected_away
    """By node uuid the wall time until which it may be away without being replaced."""
    ejected: Callable[[], frozenset[int]] = frozenset
    """Drives that are out for good: nobody waits for them."""


@dataclass(frozen=True, slots=True)
class MoveFigures:
    """Of one pool: PGs that are not where they shall be, and those on their way."""

    left: int = 0
    running: int = 0


@dataclass(frozen=True, slots=True)
class Outlook:
    """What the last look found."""

    figures: Mapping[int, MoveFigures] = field(default_factory=dict)
    stuck: tuple[PgRef, ...] = ()
    """PGs with a drive that is out for too long, and no other domain that could take its place."""
    held: bool = False
    """Re-creation waits: much is away at once while data waits for it."""
    crowded: tuple[int, ...] = ()
    """Drives that shall be emptied, and nobody can take what they hold."""


class Upkeep:
    """Looks whenever ``bell`` tells of a map, and while something is under way."""

    def __init__(self, deps: UpkeepDeps) -> None:
        self._deps = deps
        self._aims = Aims(deps.place)
        self._downs = Downs(deps.monotonic)
        self._recreated_s = -LOOK_S
        self._asked: dict[int, int] = {}
        self._looked = asyncio.Event()
        self.bell = Bell()
        self.outlook = Outlook()

    def clear(self) -> None:
        """Nothing is known: this manager leads no more, or begins to."""
        self._aims.clear()
        self._downs.clear()
        self.outlook = Outlook()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause_s = await self.look() if self._deps.leadership.leads else BACKSTOP_S
            await asyncio.sleep(PAUSE_S)
            await self.bell.wait(pause_s)

    async def balance(self, pool: int) -> AsyncGenerator[int, None]:
        """Balance a pool for as long as somebody reads this: PGs left after each look, to 0."""
        self._asked[pool] = self._asked.get(pool, 0) + 1
        try:
            while True:
                self.bell.ring()
                await self._looked.wait()
                if pool not in (figures := self.outlook.figures):
                    return  # it was deleted
                yield figures[pool].left
                if not figures[pool].left:
                    return
        finally:
            self._asked[pool] -= 1
            if not self._asked[pool]:
                del self._asked[pool]

    async def look(self) -> float:
        """Everything once; gives after how long to look again unasked."""
        asked = frozenset(self._asked)
        try:
            state = await self._look(asked)
        except NotLeaderError:
            return BACKSTOP_S
        except DrystoneError as error:
            log.warning("upkeep failed, will try again", reason=str(error))
            return LOOK_S
        if state is None:
            return LOOK_S
        if asked >= frozenset(self._asked):
            # Whoever asked meanwhile is told by the next look, which knows of it.
            self._looked.set()
            self._looked = asyncio.Event()
        waits = moves.in_flight(state) or self._downs.figures()
        left = any(each.left for each in self.outlook.figures.values())
        return LOOK_S if waits or left else BACKSTOP_S

    async def _look(self, asked: frozenset[int]) -> MapState | None:
        state = await read_state(self._deps.store)
        self._downs.see(state.drives.values())
        # Where a drive stands that cannot be looked up is not known: nothing is moved then.
        if state.unreadable_drives:
            return None
        nodes = {n.uuid: n for n in await self._deps.nodes.list("server")}
        now_s = int(self._deps.wall())
        state = await self._edit(
            state, lambda now: outs.plan_returns(now, nodes, now_s), "drives return to their places"
        )
        where = {pool.id: domains(pool, state, nodes) for pool in state.pools.values()}
        state = await self._edit(
            state, lambda now: moves.plan_undo(now, where), "moves are called off"
        )
        state, stuck, held = await self._recreate(state, nodes)
        state = await self._edit(
            state, lambda now: moves.plan_tidy(now, now_s), "what nobody wants is forgotten"
        )
        state = await self._retire(state)
        return await self._move(state, nodes, asked, stuck, held=held)

    async def _edit(self, state: MapState, plan: Planner, what: str) -> MapState:
        """Carry a plan out, if it has anything to say about this state."""
        if not plan(state):
            return state
        done = await self._deps.membership.edit(lambda now: (plan(now), ()), what)
        if done.changed:
            log.info(
                "upkeep changed the map", what=what, pgs=len(done.changed), revision=done.revision
            )
        return await read_state(self._deps.store)

    async def _recreate(
        self, state: MapState, nodes: Mapping[str, Node]
    ) -> tuple[MapState, tuple[PgRef, ...], bool]:
        absences, ejected = await self._deps.absences(), self._deps.ejected()
        times = Times(self._deps.wall(), self._downs.figures(), absences, ejected)
        late = outs.overdue(state, times)
        if not late:
            return state, (), False
        if outs.is_cold_start(state, nodes):
            return state, (), True
        gone = frozenset(drive for drives in late.values() for drive in drives)
        preferred = {}
        for number in {ref.pool for ref in late}:
            spec = standing_spec(state.pools[number], state, nodes, gone)
            if spec is not None:
                preferred[number] = await self._aims.place(spec)
        stuck = outs.plan_recreation(state, nodes, preferred, late).stuck

        def plan(now: MapState) -> Mapping[PgRef, PgRecord]:
            still = outs.overdue(now, times)
            return outs.plan_recreation(now, nodes, preferred, still).changed

        # A round of its own, however often it is looked meanwhile: what a wrong clock or a node on
        # its way back would make of it stays small.
        now = self._deps.monotonic()
        if now - self._recreated_s < LOOK_S:
            return state, stuck, False
        after = await self._edit(state, plan, "lost drives are re-created on others")
        if after is not state:
            self._recreated_s = now
        return after, stuck, False

    async def _retire(self, state: MapState) -> MapState:
        """Let drives leave PGs that are whole without them, each after its promise."""
        left = [
            await self._deps.retire(state, state.drives[number], pgs)
            for number, pgs in sorted(moves.surplus(state).items())
        ]
        return await read_state(self._deps.store) if any(left) else state

    async def _move(
        self,
        state: MapState,
        nodes: Mapping[str, Node],
        asked: frozenset[int],
        stuck: tuple[PgRef, ...],
        *,
        held: bool,
    ) -> MapState:
        aims = await self._all_aims(state, nodes, asked)
        begun: dict[PgRef, PgRecord] = {}

        def plan(now: MapState) -> Mapping[PgRef, PgRecord]:
            begun.clear()
            begun.update(moves.plan_moves(now, aims))
            return begun

        state = await self._edit(state, plan, "moves begin")
        self._aims.moved(begun)
        self._downs.see(state.drives.values())
        self.outlook = Outlook(
            {
                pool: MoveFigures(
                    moves.moves_left(state, pool, aims.get(pool)),
                    sum(ref.pool == pool for ref in moves.in_flight(state)),
                )
                for pool in state.pools
            },
            stuck,
            held,
            moves.crowded(state, aims),
        )
        return state

    async def _all_aims(
        self, state: MapState, nodes: Mapping[str, Node], asked: frozenset[int]
    ) -> dict[int, Aim]:
        """The aims of the pools that may have something to move."""
        calm, leaving = moves.is_calm(state), moves.evacuating(state)
        found = {}
        for pool in state.pools.values():
            balance = pool.rebalance is Rebalance.AUTO or pool.id in asked
            if leaving or pool.id in asked or (balance and calm):
                aim = await self._aims.of(pool, state, nodes, balance=balance)
                if aim is not None:
                    found[pool.id] = aim
        return found

    async def plan(self, pool: Pool) -> tuple[MapState, Aim | None]:
        """Where a pool's PGs would go if it were balanced now; changes nothing."""
        state = await read_state(self._deps.store)
        nodes = {n.uuid: n for n in await self._deps.nodes.list("server")}
        return state, await self._aims.of(pool, state, nodes, balance=True)
