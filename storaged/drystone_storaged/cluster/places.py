"""Which drives may hold a pool's copies, in which domains, and what the placement is asked."""

from __future__ import annotations

from collections.abc import Mapping

from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.placement import PlacementDrive, PlacementSpec
from drystone_storaged.cluster.pools import in_domain
from drystone_storaged.cluster.records import Drive, DriveState, Node, Pool


def domains(pool: Pool, state: MapState, nodes: Mapping[str, Node]) -> dict[int, str]:
    """Domains of all drives, also those that are down: their copies come back."""
    known = [(d, nodes[d.node]) for d in state.drives.values() if d.node in nodes]
    return {d.id: d.domain for d in in_domain(known, pool.failure_domain)}


def candidates(
    pool: Pool, state: MapState, nodes: Mapping[str, Node]
) -> tuple[PlacementDrive, ...]:
    """Drives that may take a copy now: up, not being emptied, of the pool's class."""
    found = [
        (d, nodes[d.node])
        for d in state.drives.values()
        if d.state is DriveState.UP and not d.evacuating and _fits(pool, d, nodes)
    ]
    return in_domain(found, pool.failure_domain)


def standing_spec(
    pool: Pool, state: MapState, nodes: Mapping[str, Node], leaving: frozenset[int]
) -> PlacementSpec | None:
    """Ask for the placement that is nearest to the one that stands, without ``leaving``.

    A drive that is down for a moment keeps its places and gets no new one (failure ≠ move). None
    where the placement that stands is not known, or nobody could take anything.
    """
    pgs = state.known_pgs(pool.id)
    unknown = state.unreadable_drives or pool.id in state.unreadable_pools
    if unknown or len(pgs) != pool.pg_count:
        return None
    targets = tuple(pgs[PgRef(pool.id, number)].target for number in range(pool.pg_count))
    held = {drive for target in targets for drive in target}
    away = [
        (d, nodes[d.node])
        for d in state.drives.values()
        if d.state is DriveState.DOWN
        and d.id in held
        and not d.evacuating
        and d.id not in leaving
        and _fits(pool, d, nodes)
    ]
    here = tuple(d for d in candidates(pool, state, nodes) if d.id not in leaving)
    if not here:
        return None
    closed = in_domain(away, pool.failure_domain)
    drives = tuple(sorted((*here, *closed), key=lambda d: d.id))
    return PlacementSpec(
        pool.id, pool.pg_count, pool.copies, drives, targets, tuple(d.id for d in closed)
    )


def _fits(pool: Pool, drive: Drive, nodes: Mapping[str, Node]) -> bool:
    return drive.node in nodes and pool.drive_class in ("", drive.drive_class)
