"""Moves: join the new drive, copy, promote, drop the old one (§5). Pure planners.

Every number comes from the map: a PG is in flight from the moment its target changes until its
members are its targets, so that a new leader goes on without a memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from drystone_storaged.cluster import membership
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.records import DriveState, Pool

MOVES_MAX: Final = 8  # PGs in flight in the cluster: what clients feel of it stays small
TO_MAX: Final = 2  # of these towards one drive, which writes everything it gets
FROM_MAX: Final = 1  # and away from one that only shares; one that is emptied may give more


@dataclass(frozen=True, slots=True)
class Aim:
    """Where a pool's PGs shall be, as the placement gave it."""

    wanted: Sequence[tuple[int, ...]]
    domain: Mapping[int, str]
    balance: bool
    """Also where no drive is emptied."""


@dataclass(frozen=True, slots=True)
class Step:
    """One place of one PG that goes from a drive to another."""

    ref: PgRef
    old: int
    new: int


def up_drives(state: MapState) -> frozenset[int]:
    """Drives that serve."""
    return frozenset(d.id for d in state.drives.values() if d.state is DriveState.UP)


def is_settled(record: PgRecord, pool: Pool, up: frozenset[int]) -> bool:
    """Whether every target is in sync and serves: only then does anything leave (I1)."""
    target = set(record.target)
    return len(target) >= max(1, pool.width) and target <= up.intersection(record.insync)


def is_degraded(record: PgRecord, pool: Pool, up: frozenset[int]) -> bool:
    """Whether fewer drives than the pool has copies serve this PG."""
    return len(up.intersection(record.insync)) < pool.width


def in_flight(state: MapState) -> dict[PgRef, PgRecord]:
    """PGs that somebody is coming to, or leaving."""
    up = up_drives(state)
    return {ref: pg for ref, pg in state.known_pgs().items() if _arriving(pg, up) or _leaving(pg)}


def _arriving(record: PgRecord, up: frozenset[int]) -> set[int]:
    return set(up.intersection(record.target)).difference(record.insync)


def _leaving(record: PgRecord) -> set[int]:
    return set(record.members()).difference(record.target)


def evacuating(state: MapState) -> frozenset[int]:
    """Drives that are emptied."""
    drives = state.drives.values()
    return frozenset(d.id for d in drives if d.evacuating and d.state is not DriveState.GONE)


def is_calm(state: MapState) -> bool:
    """Whether every PG has as many live copies as its pool: only then is anything balanced."""
    up = up_drives(state)
    return not any(is_degraded(pg, state.pools[r.pool], up) for r, pg in state.known_pgs().items())


def can_be_missed(state: MapState, drive: int, live: frozenset[int]) -> bool:
    """Whether every PG that it is in sync in has as many live copies without it as writes need."""
    for ref, record in state.known_pgs().items():
        pool = state.pools[ref.pool]
        least = membership.effective_min_insync(pool.min_insync, pool.width)
        if drive in record.insync and len(live.intersection(record.insync) - {drive}) < least:
            return False
    return True


def crowded(state: MapState, aims: Mapping[int, Aim]) -> tuple[int, ...]:
    """Drives that shall be emptied and that the aims give no other place for all they hold."""
    out = evacuating(state)
    found: set[int] = set()
    for ref, record in state.known_pgs().items() if out else ():
        aim = aims.get(ref.pool)
        leaving = out.intersection(record.target)
        new = set(aim.wanted[ref.pg]).difference(record.target) if aim else set()
        if len(new) < len(leaving):
            found |= leaving
    return tuple(sorted(found))


def plan_moves(state: MapState, aims: Mapping[int, Aim]) -> dict[PgRef, PgRecord]:
    """The moves that begin now: as many as the limits leave room for, emptied drives first."""
    up, flying = up_drives(state), in_flight(state)
    calm = is_calm(state)
    to = Counter(d for pg in flying.values() for d in _arriving(pg, up))
    away = Counter(d for pg in flying.values() for d in _leaving(pg))
    out = evacuating(state)
    changed: dict[PgRef, PgRecord] = {}
    pgs = {ref: pg for ref, pg in state.known_pgs().items() if ref not in flying}
    for emptied in (True, False) if calm else (True,):
        for ref, record in pgs.items():
            if len(flying) + len(changed) >= MOVES_MAX:
                return changed
            aim = aims.get(ref.pool)
            if aim is None or ref in changed or not (emptied or aim.balance):
                continue
            for step in _steps(ref, record, aim, up):
                free = emptied or away[step.old] < FROM_MAX
                fits = (step.old in out) is emptied and free and to[step.new] < TO_MAX
                if fits and _may_begin(record, step, up):
                    changed[ref] = _swapped(record, step)
                    to[step.new] += 1
                    away[step.old] += 1
                    break
    return changed


def _may_begin(record: PgRecord, step: Step, up: frozenset[int]) -> bool:
    """A move begins where all other copies are there: it never waits for a repair."""
    others = set(record.target) - {step.old}
    return others <= up.intersection(record.insync) and bool(up.intersection(record.insync))


def _steps(ref: PgRef, record: PgRecord, aim: Aim, up: frozenset[int]) -> Iterator[Step]:
    """Single changes towards the aim that keep the domains distinct; one of them always does."""
    wanted = aim.wanted[ref.pg]
    olds = [d for d in record.target if d not in wanted]
    for new in (d for d in wanted if d not in record.target and d in up):
        for old in olds:
            rest = {aim.domain.get(d) for d in record.target if d != old}
            if aim.domain.get(new) not in rest:
                yield Step(ref, old, new)


def _swapped(record: PgRecord, step: Step) -> PgRecord:
    target = tuple(step.new if d == step.old else d for d in record.target)
    return membership.retarget(record, target) or record


def moves_left(state: MapState, pool: int, aim: Aim | None) -> int:
    """PGs of a pool that are not where they shall be; one in flight counts until it is over."""
    out = evacuating(state)
    flying = in_flight(state)
    left = 0
    for ref, record in state.known_pgs(pool).items():
        olds = set(record.target).difference(aim.wanted[ref.pg]) if aim else set()
        meant = olds if aim and aim.balance else olds & out
        left += bool(meant) or ref in flying
    return left


def plan_undo(
    state: MapState, domain: Mapping[int, Mapping[int, str]], *, back: int = 0
) -> dict[PgRef, PgRecord]:
    """Give a place back to the copy that is still there, where the new drive does not get it.

    That is where the new one went down before its copy was whole; ``back`` names a drive that gets
    its places back in any case, because it is not to be emptied any more.
    """
    up, out = up_drives(state), evacuating(state)
    changed = {}
    for ref, record in state.known_pgs().items():
        spare = [d for d in record.insync if d not in record.target and d in up and d not in out]
        where = domain.get(ref.pool, {})
        missing = [
            t for t in record.target if t not in record.insync and (t not in up or back in spare)
        ]
        for old, new in ((m, s) for m in missing for s in spare):
            rest = {where.get(d) for d in record.target if d != old}
            if where.get(new) not in rest:
                changed[ref] = _swapped(record, Step(ref, old, new))
                break
    return changed


def plan_tidy(state: MapState, now_s: int) -> dict[PgRef, PgRecord]:
    """Drop joiners that nobody wants; forget who is out of a PG that is whole without it.

    A joiner has no lease, so nothing is asked of it. What is forgotten here would return as blank,
    and until then deleted blocks and layers are remembered for it (I17).
    """
    up = up_drives(state)
    changed = {}
    for ref, record in state.known_pgs().items():
        new = record
        for joiner in record.joining:
            if joiner.drive not in record.target:
                new = membership.drop(new, joiner.drive, now_s) or new
        if is_settled(new, state.pools[ref.pool], up):
            strangers = frozenset(o.drive for o in new.out if o.drive not in new.target)
            new = membership.forget(new, strangers) or new
        if new is not record:
            changed[ref] = new
    return changed


def surplus(state: MapState) -> dict[int, dict[PgRef, PgRecord]]:
    """By drive that is up the PGs that it is in sync in and not wanted in, where it may leave.

    One drive of a PG at a time: each leaves by a transaction of its own, in an epoch of its own.
    """
    up = up_drives(state)
    found: dict[int, dict[PgRef, PgRecord]] = {}
    for ref, record in state.known_pgs().items():
        if is_settled(record, state.pools[ref.pool], up):
            leaving = [d for d in record.insync if d not in record.target and d in up]
            for drive in leaving[:1]:
                found.setdefault(drive, {})[ref] = record
    return found


def plan_retire(
    state: MapState,
    drive: int,
    asked: Mapping[PgRef, PgRecord],
    live: frozenset[int],
) -> dict[PgRef, PgRecord]:
    """Drop a drive that promised not to answer reads from PGs that have all their targets.

    Its promise holds for the epochs that it was asked about, so PGs that changed since are left.
    It is forgotten with the drop: nobody wants it back.
    """
    pgs = state.known_pgs()
    up = up_drives(state) & live
    changed = {}
    for ref, then in asked.items():
        record = pgs.get(ref)
        if record is None or record.epoch != then.epoch or drive in record.target:
            continue
        if not is_settled(record, state.pools[ref.pool], up) or drive not in record.insync:
            continue
        new = membership.drop(record, drive, 0)
        if new is not None:
            changed[ref] = membership.forget(new, frozenset([drive])) or new
    return changed
