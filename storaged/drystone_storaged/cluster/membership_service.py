"""Transactions of membership: what the leader does to PGs, each compared with leader and shards."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from drystone_common.errors import ConflictError, InvalidArgumentError, NotFoundError
from drystone_storaged.cluster import membership
from drystone_storaged.cluster.drives import EvidenceExpiredError
from drystone_storaged.cluster.leadership import Leadership
from drystone_storaged.cluster.mapstate import MapState, read_state, write_pgs
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.records import DriveState
from drystone_storaged.cluster.store import Compare, MetadataStore, Op
from drystone_storaged.cluster.txn import retrying

EVIDENCE_TTL_S: Final = 5.0  # §4.1: an old decision must not hit a drive that recovered since


@dataclass(frozen=True, slots=True)
class Evidence:
    """Why drives are dropped, and when that was observed (monotonic seconds)."""

    reason: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Changed:
    """Outcome: the map's revision afterwards, what changed, and PGs where nothing could."""

    revision: int
    changed: tuple[PgRef, ...]
    refused: tuple[PgRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """A change of the map that was written: for figures and events, never for a decision."""

    before: MapState
    changed: Mapping[PgRef, PgRecord]
    what: str
    reason: str


Plan = Callable[[MapState], tuple[Mapping[PgRef, PgRecord], tuple[PgRef, ...]]]


class MembershipService:
    """Drop, join, promote. ``monotonic`` ages evidence, ``wall`` only stamps ``out_since``."""

    def __init__(
        self,
        store: MetadataStore,
        leadership: Leadership,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._store = store
        self._leadership = leadership
        self._monotonic = monotonic
        self._wall = wall
        self.on_changed: list[Callable[[Change], None]] = []
        """Called with each change that was written."""

    async def drop(
        self,
        drives: Collection[int],
        evidence: Evidence,
        *,
        only: Collection[PgRef] | None = None,
        blank: bool = False,
        joining: bool = False,
        live: frozenset[int] | None = None,
        still_valid: Callable[[MapState], bool] = lambda _: True,
        conditions: Sequence[Compare] = (),
    ) -> Changed:
        """Drop drives from all their PGs (or from ``only``), as far as I1 allows.

        ``joining``: only from PGs where they are joiners at that moment. ``live``: see
        ``membership.plan_drop``. ``still_valid`` looks at the state each attempt
        starts from; ``conditions`` are compared in the transaction itself.
        """

        def plan(state: MapState) -> tuple[Mapping[PgRef, PgRecord], tuple[PgRef, ...]]:
            if self._monotonic() - evidence.at_s > EVIDENCE_TTL_S or not still_valid(state):
                raise EvidenceExpiredError(f"dropping drives {sorted(drives)}: evidence is void")
            pgs = state.known_pgs()
            chosen = pgs if only is None else {ref: pgs[ref] for ref in only if ref in pgs}
            if joining:
                chosen = {r: pg for r, pg in chosen.items() if any(map(pg.joiner, drives))}
            now_s = int(self._wall())
            return membership.plan_drop(chosen, drives, now_s, blank=blank, live=live)

        return await self._run(plan, "a drop", conditions, reason=evidence.reason)

    async def join_wanted(self, *, exclude: Collection[int] = ()) -> Changed:
        """Join every drive that is up and wanted and not a member, ``exclude`` apart."""

        def plan(state: MapState) -> tuple[Mapping[PgRef, PgRecord], tuple[PgRef, ...]]:
            up = frozenset(d.id for d in state.drives.values() if d.state is DriveState.UP)
            up -= frozenset(exclude)
            changed: dict[PgRef, PgRecord] = {}
            for ref, record in state.known_pgs().items():
                new = record
                # One joiner a PG and step: two at once would double the load for one gain.
                if not record.joining:
                    for drive in membership.wanted_joins(record, up)[:1]:
                        new = membership.join(record, drive) or record
                if new is not record:
                    changed[ref] = new
            return changed, ()

        return await self._run(plan, "a join")

    async def promote(self, completed: Mapping[PgRef, Collection[tuple[int, int]]]) -> Changed:
        """Promote joiners: PG → (drive, epoch in which its copy completed)."""
        promoted: list[PgRef] = []

        def plan(state: MapState) -> tuple[Mapping[PgRef, PgRecord], tuple[PgRef, ...]]:
            changed: dict[PgRef, PgRecord] = {}
            refused: list[PgRef] = []
            pgs = state.known_pgs()
            for ref, wanted in completed.items():
                for drive, epoch in wanted:
                    record = pgs.get(ref)
                    new = membership.promote(record, drive, epoch) if record else None
                    up = drive in state.drives and state.drives[drive].state is DriveState.UP
                    if new is None or not up or ref in changed:
                        if record is None or drive not in record.insync:
                            refused.append(ref)
                    else:
                        changed[ref] = new
            promoted[:] = changed
            return changed, tuple(refused)

        return await self._run(plan, "a promotion")

    async def renew(self, drive: int, promised: Mapping[PgRef, int]) -> Changed:
        """End what a drive promised for these epochs, where they stand and it is in sync still.

        A drop that rests on such a promise fails after this: it compares the epoch with the state
        that it starts from (``still_valid``, ``moves.plan_retire``), its transaction the shard.
        """

        def plan(state: MapState) -> tuple[Mapping[PgRef, PgRecord], tuple[PgRef, ...]]:
            pgs, changed = state.known_pgs(), {}
            for ref, epoch in promised.items():
                if ref in pgs and (new := membership.renew(pgs[ref], drive, epoch)) is not None:
                    changed[ref] = new
            return changed, ()

        return await self._run(plan, "the end of a promise")

    async def heirs(self, ref: PgRef) -> tuple[membership.Heir, ...]:
        """Who could take over a PG whose in-sync drives are all down, the first choice first."""
        state = await read_state(self._store)
        return _heirs(_lost_record(state, ref), state)

    async def mark_lost(
        self,
        ref: PgRef,
        also: Callable[[PgRecord], Sequence[Op]] = lambda _: (),
        drive: int | None = None,
    ) -> tuple[Changed, PgRecord, membership.Heir]:
        """Give a PG up whose in-sync drives are all down: an up drive takes over what it has.

        ``also`` gives what is written in the same transaction. ``drive`` is the one that takes
        over, unless it is the one that holds most.
        """
        outcome: list[tuple[PgRecord, membership.Heir]] = []

        def plan(state: MapState) -> tuple[Mapping[PgRef, PgRecord], tuple[PgRef, ...]]:
            record = _lost_record(state, ref)
            heir = _chosen(_heirs(record, state), drive)
            new = membership.mark_lost(record, heir.drive, int(self._wall()))
            outcome[:] = [(new, heir)]
            return {ref: new}, ()

        done = await self._run(plan, "mark-lost", also=lambda: also(outcome[0][0]))
        return done, *outcome[0]

    async def edit(self, plan: Plan, what: str, conditions: Sequence[Compare] = ()) -> Changed:
        """Run any other plan; the caller answers for I1 and I2."""
        return await self._run(plan, what, conditions)

    async def _run(
        self,
        plan: Plan,
        what: str,
        extra: Sequence[Compare] = (),
        also: Callable[[], Sequence[Op]] = tuple,
        reason: str = "",
    ) -> Changed:
        async def attempt() -> Changed | None:
            conditions = [self._leadership.compare(), *extra]
            state = await read_state(self._store)
            changed, refused = plan(state)
            if not changed:
                return Changed(state.revision, (), refused)
            revision = await write_pgs(self._store, state, changed, conditions, also())
            if revision is None:
                await self._check_conditions(extra)
                return None
            for call in self.on_changed:
                call(Change(state, changed, what, reason))
            return Changed(revision, tuple(changed), refused)

        return await retrying(attempt, what)

    async def _check_conditions(self, extra: Sequence[Compare]) -> None:
        # A deposed manager must stop at once instead of trying until it gives up.
        mine = self._leadership.compare()
        if not (await self._store.txn([mine], [])).succeeded:
            raise self._leadership.deposed(mine)
        if extra and not (await self._store.txn(extra, [])).succeeded:
            raise EvidenceExpiredError("what spoke for this drop was withdrawn")


def _name(state: MapState, ref: PgRef) -> str:
    pool = state.pools.get(ref.pool)
    return f"{pool.name if pool else ref.pool}/{ref.pg}"


def _heirs(record: PgRecord, state: MapState) -> tuple[membership.Heir, ...]:
    up = {d.id for d in state.drives.values() if d.state is DriveState.UP}
    found = membership.heirs(record, up)
    if not found:
        raise ConflictError(
            "no drive of that PG is up",
            code="pg_no_heir",
            hint="start a server whose drive is a target of the PG first",
        )
    return found


def _chosen(found: tuple[membership.Heir, ...], drive: int | None) -> membership.Heir:
    heir = next((h for h in found if drive in {None, h.drive}), None)
    if heir is None:
        raise InvalidArgumentError(
            f"drive {drive} cannot take the PG over",
            code="pg_not_an_heir",
            hint=f"one of: {'; '.join(map(str, found))}",
        )
    return heir


def _lost_record(state: MapState, ref: PgRef) -> PgRecord:
    """The PG, if its in-sync copies are all down."""
    record = state.pgs(ref.pool).get(ref)
    if record is None:
        raise NotFoundError(
            f"PG {_name(state, ref)} does not exist",
            code="pg_not_found",
            hint="`drystone map` lists the PGs of every pool",
        )
    # Whether a copy on a drive that nobody can look up is lost is not known.
    state.require_drives((*record.members(), *(o.drive for o in record.out)))
    if any(d.state is DriveState.UP for n in record.insync if (d := state.drives.get(n))):
        raise ConflictError(
            f"PG {_name(state, ref)} still has an in-sync copy on a drive that is up",
            code="pg_not_lost",
            hint="nothing is lost; wait for resync instead",
        )
    return record
