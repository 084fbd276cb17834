"""Which drives take the places that are empty; the join loop does the rest.

A place is empty where a drive was forgotten, or where there were too few drives when the pool was
made. It is filled as soon as a drive is up in a domain that the PG does not use yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from drystone_storaged.cluster import membership
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.placement import PlacementSpec
from drystone_storaged.cluster.places import candidates, domains
from drystone_storaged.cluster.records import DriveState, Node, Pool

Preferred = Mapping[int, Sequence[tuple[int, ...]]]
"""What the placement gave, by pool: for each PG distinct domains, one for every place."""


def is_whole(state: MapState) -> bool:
    """Whether every place is taken: the usual case, answered in one pass over the map."""
    gone = gone_drives(state)
    narrow = any(pool.width < pool.copies for pool in state.pools.values())
    return not narrow and all(
        len(pg.target) >= state.pools[ref.pool].copies
        and gone.isdisjoint(
            (*pg.target, *(j.drive for j in pg.joining), *(o.drive for o in pg.out))
        )
        for ref, pg in state.known_pgs().items()
    )


def placements_wanted(state: MapState, nodes: Mapping[str, Node]) -> list[PlacementSpec]:
    """What to ask the placement: pools with an empty place that a drive could take."""
    gone = gone_drives(state)
    wanted = []
    for pool in state.pools.values():
        domain = domains(pool, state, nodes)
        drives = candidates(pool, state, nodes)
        free = {d.domain for d in drives}
        barred = gone | emptied(state)
        records = (without(pg, gone) for pg in state.pgs(pool.id).values())
        targets = (_target(pool, pg, barred, domain) for pg in records)
        if any(len(t) < pool.copies and free - {domain.get(d) for d in t} for t in targets):
            wanted.append(PlacementSpec(pool.id, pool.pg_count, pool.copies, drives))
    return wanted


def plan_replacement(
    state: MapState, nodes: Mapping[str, Node], preferred: Preferred
) -> dict[PgRef, PgRecord]:
    """Forget gone drives everywhere and fill empty places; doing it again changes nothing.

    Drives that are not up any more are passed over: ``preferred`` may be older than ``state``.
    """
    gone = gone_drives(state)
    barred = gone | emptied(state)
    changed: dict[PgRef, PgRecord] = {}
    for pool in state.pools.values():
        domain = domains(pool, state, nodes)
        up = {d.id for d in candidates(pool, state, nodes)}
        chosen = preferred.get(pool.id)
        for ref, record in state.pgs(pool.id).items():
            new = without(record, gone)
            target = _target(pool, new, barred, domain)
            for drive in chosen[ref.pg] if chosen else ():
                used = {domain.get(d) for d in target}
                if len(target) < pool.copies and drive in up and domain[drive] not in used:
                    target = (*target, drive)
            new = membership.retarget(new, target) or new
            if new is not record:
                changed[ref] = new
    return changed


def without(record: PgRecord, gone: frozenset[int]) -> PgRecord:
    """The record when these are forgotten; one that is in sync stays a member."""
    new = record
    for joiner in record.joining:
        if joiner.drive in gone:
            # It serves nobody, and while it stands there no other one joins.
            new = membership.drop(new, joiner.drive, 0) or new
    return membership.forget(new, gone) or new


def wider(state: MapState, pool: Pool) -> int:
    """How many copies every PG of a pool has now, if that is more than it was made with."""
    counts = [len(set(pg.insync).intersection(pg.target)) for pg in state.pgs(pool.id).values()]
    return max(pool.width, min(pool.copies, min(counts, default=0)))


def too_few_left(state: MapState, leaving: frozenset[int]) -> list[PgRef]:
    """PGs of which these drives hold a copy, and without them fewer than ``min_insync`` do.

    A copy is what is in sync, and what left with content that can come back, however old.
    """
    gone = gone_drives(state) | leaving
    found = []
    for ref, pg in state.pgs().items():
        copies = {*pg.insync, *(o.drive for o in pg.out if o.e0)}
        pool = state.pools[ref.pool]
        least = membership.effective_min_insync(pool.min_insync, pool.width)
        if copies & leaving and len(copies - gone) < least:
            found.append(ref)
    return found


def has_room(state: MapState, nodes: Mapping[str, Node], without_node: str) -> bool:
    """Whether what a node held has a place on drives of other nodes that are up."""
    others = {uuid: node for uuid, node in nodes.items() if uuid != without_node}
    return all(
        len({d.domain for d in candidates(pool, state, others)}) >= pool.width
        for pool in state.pools.values()
    )


def gone_drives(state: MapState) -> frozenset[int]:
    """Drives that were forgotten."""
    return frozenset(d.id for d in state.drives.values() if d.state is DriveState.GONE)


def emptied(state: MapState) -> frozenset[int]:
    """Drives that are being evacuated: what they hold fills no place."""
    return frozenset(d.id for d in state.drives.values() if d.evacuating)


def _target(
    pool: Pool, record: PgRecord, barred: frozenset[int], domain: Mapping[int, str]
) -> tuple[int, ...]:
    """What is wanted already; a copy that is there takes an empty place before a new one does.

    Unless its domain has a copy: then it is what a move leaves behind, and goes.
    """
    target = record.target
    for drive in record.insync:
        used = {domain.get(d) for d in target}
        free = drive not in target and drive not in barred and domain.get(drive) not in used
        if free and len(target) < pool.copies:
            target = (*target, drive)
    return target
