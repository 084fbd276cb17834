"""New targets in place of drives that are gone for good; the join loop does the rest."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from drystone_storaged.cluster import membership
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.placement import PlacementSpec
from drystone_storaged.cluster.pools import in_domain
from drystone_storaged.cluster.records import DriveState, Node, Pool

Place = Callable[[PlacementSpec], Sequence[tuple[int, ...]]]


def plan_replacement(
    state: MapState, nodes: Mapping[str, Node], place: Place
) -> dict[PgRef, PgRecord]:
    """Forget gone drives everywhere and fill their places with drives that are up."""
    gone = frozenset(d.id for d in state.drives.values() if d.state is DriveState.GONE)
    changed: dict[PgRef, PgRecord] = {}
    for pool in state.pools.values():
        touched = {
            ref: new
            for ref, record in state.pgs(pool.id).items()
            if (new := membership.forget(record, gone)) is not None
        }
        changed |= _fill(pool, state, nodes, touched, place) if touched else {}
    return changed


def _fill(
    pool: Pool,
    state: MapState,
    nodes: Mapping[str, Node],
    touched: Mapping[PgRef, PgRecord],
    place: Place,
) -> dict[PgRef, PgRecord]:
    candidates = [
        (d, nodes[d.node])
        for d in state.drives.values()
        if d.state is not DriveState.GONE and d.node in nodes and d.drive_class == pool.drive_class
    ]
    drives = in_domain(candidates, pool.failure_domain)
    if not drives:
        return dict(touched)
    domain = {d.id: d.domain for d in drives}
    # Each PG gets `width` distinct domains, so one is left for every place that is empty.
    preferred = place(PlacementSpec(pool.id, pool.pg_count, pool.width, drives))
    filled: dict[PgRef, PgRecord] = {}
    for ref, record in touched.items():
        target = list(record.target)
        for drive in preferred[ref.pg]:
            used = {domain.get(d) for d in target}
            if len(target) < pool.width and domain[drive] not in used:
                target.append(drive)
        filled[ref] = membership.retarget(record, tuple(target)) or record
    return filled
