"""Who is out for too long, and which drives take its places: re-creation after ``out_time`` (§5).

Failure ≠ move: a drive that was dropped keeps its places for the pool's ``out_time`` and returns by
a delta. Pure: the clocks are the caller's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from drystone_storaged.cluster import membership
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.places import candidates, domains
from drystone_storaged.cluster.records import Drive, DriveState, Node, Pool
from drystone_storaged.cluster.replace import Preferred

RECREATE_MAX: Final = 32
"""PGs that get another drive in one round: what was a mistake of the clocks shows by then."""

RESTART_S: Final = 120.0
"""How long a new leader sees a drive down before it believes the wall clock of its record: after a
power cut everybody starts, and some machines take two minutes to do so."""


@dataclass(frozen=True, slots=True)
class Down:
    """How long (monotonic seconds) the leader has seen a drive down, and whether it saw it go."""

    for_s: float
    seen_going: bool


@dataclass(frozen=True, slots=True)
class Times:
    """The clocks at one moment."""

    wall_s: float
    down: Mapping[int, Down]
    not_before_s: Mapping[str, float] = field(default_factory=dict)
    """By node uuid the wall time until which its absence is expected: it counts from then."""
    ejected: frozenset[int] = frozenset()
    """Drives that do not come back by themselves: they are late as soon as they are down."""


@dataclass(frozen=True, slots=True)
class Recreation:
    """Changed PGs, and how many more are overdue for which no other domain has a drive."""

    changed: dict[PgRef, PgRecord]
    stuck: tuple[PgRef, ...]


def overdue(state: MapState, times: Times) -> dict[PgRef, frozenset[int]]:
    """Targets that are out for longer than their pool's ``out_time``, by PG."""
    found = {}
    for pool in state.pools.values():
        if not pool.out_time_s:
            continue
        late = {d.id: d for d in state.drives.values() if _is_down_long(d, pool, times)}
        for ref, record in state.known_pgs(pool.id).items() if late else ():
            out = {d for d in record.target if d in late and _is_late(record, late[d], pool, times)}
            if out.difference(record.members()):
                found[ref] = frozenset(out.difference(record.members()))
    return found


def _is_down_long(drive: Drive, pool: Pool, times: Times) -> bool:
    """By the leader's own clock, which no jump of the wall clock moves."""
    down = times.down.get(drive.id)
    if drive.state is not DriveState.DOWN or down is None:
        return False
    if drive.id in times.ejected:
        return True
    return down.for_s >= (pool.out_time_s if down.seen_going else min(pool.out_time_s, RESTART_S))


def _is_late(record: PgRecord, drive: Drive, pool: Pool, times: Times) -> bool:
    """By the wall clock, which survives a change of leaders."""
    if drive.id in times.ejected:
        return True
    out = record.out_since(drive.id)
    # One that never came here left no time behind: then the leader has to have seen it all.
    since_s = out.since_s if out else times.wall_s - times.down[drive.id].for_s
    expected_s = times.not_before_s.get(drive.node, 0.0)
    return times.wall_s - max(since_s, expected_s) >= pool.out_time_s


def is_cold_start(state: MapState, nodes: Mapping[str, Node]) -> bool:
    """Whether much is away at once while data waits for it: then it is coming, not lost.

    Whoever copies gigabytes around then is in the way of those who start.
    """
    up = {d.id for d in state.drives.values() if d.state is DriveState.UP}
    pgs = state.known_pgs().values()
    if all(up.intersection(record.insync) for record in pgs):
        return False
    needed = {drive for record in pgs for drive in (*record.insync, *record.target)}
    away = [state.drives[d] for d in needed if d in state.drives and d not in up]
    units = {(nodes[d.node].fault_set if d.node in nodes else "") or d.node for d in away}
    return len(units) > 1


def plan_recreation(
    state: MapState,
    nodes: Mapping[str, Node],
    preferred: Preferred,
    late: Mapping[PgRef, frozenset[int]],
) -> Recreation:
    """Give the places of ``late`` drives to others, of the PGs with the fewest copies first.

    Whoever is late stays remembered until its PG is whole: if it returns it needs only a delta.
    """
    up = frozenset(d.id for d in state.drives.values() if d.state is DriveState.UP)
    pgs = state.known_pgs()
    changed: dict[PgRef, PgRecord] = {}
    stuck = []
    pools = state.pools.values()
    ready = {p.id: frozenset(c.id for c in candidates(p, state, nodes)) for p in pools}
    where = {p.id: domains(p, state, nodes) for p in pools}
    for ref in sorted(late, key=lambda r: (len(up.intersection(pgs[r].insync)), r.pool, r.pg)):
        chosen = preferred.get(ref.pool)
        if len(changed) >= RECREATE_MAX or chosen is None:
            continue
        offered = [d for d in chosen[ref.pg] if d in ready[ref.pool]]
        target = _replaced(pgs[ref].target, late[ref], offered, where[ref.pool])
        new = membership.retarget(pgs[ref], target)
        if new is None:
            stuck.append(ref)
        else:
            changed[ref] = new
    return Recreation(changed, tuple(stuck))


def _replaced(
    target: tuple[int, ...], late: frozenset[int], offered: list[int], domain: Mapping[int, str]
) -> tuple[int, ...]:
    """Each late drive's place for one that is offered in a domain of its own, if there is one."""
    new = list(target)
    for slot, drive in enumerate(target):
        others = {domain.get(d) for i, d in enumerate(new) if i != slot}
        fitting = (d for d in offered if d not in new and domain.get(d) not in others)
        if drive in late:
            new[slot] = next(fitting, drive)
    return tuple(new)


def plan_returns(state: MapState, nodes: Mapping[str, Node], now_s: int) -> dict[PgRef, PgRecord]:
    """Where a drive came back while another one still takes its place: a delta is shorter.

    Only where the map remembers what it has, and the other one has to copy everything.
    """
    changed = {}
    for pool in state.pools.values():
        ready = {c.id for c in candidates(pool, state, nodes)}
        domain = domains(pool, state, nodes)
        for ref, record in state.known_pgs(pool.id).items():
            if (new := _returned(record, ready, domain, now_s)) is not None:
                changed[ref] = new
    return changed


def _returned(
    record: PgRecord, ready: set[int], domain: Mapping[int, str], now_s: int
) -> PgRecord | None:
    back = [o.drive for o in record.out if o.e0 and o.drive in ready]
    for drive in (d for d in back if d not in record.target):
        for slot, other in enumerate(record.target):
            joiner = record.joiner(other)
            out = record.out_since(other)
            if other in record.insync or (joiner and joiner.e0) or (out and out.e0):
                continue
            rest = {domain.get(d) for d in record.target if d != other}
            if domain.get(drive) in rest:
                continue
            target = (*record.target[:slot], drive, *record.target[slot + 1 :])
            new = membership.retarget(record, target) or record
            new = membership.drop(new, other, now_s) or new
            return membership.forget(new, frozenset([other])) or new
    return None
