"""Copies that shall go elsewhere and cannot."""

from __future__ import annotations

from collections.abc import Iterator

from drystone_storaged.manager.issues.look import Moment, names
from drystone_storaged.manager.problems import Problem, Severity


def of_moves(at: Moment) -> Iterator[Problem]:
    """What the last look of the upkeep left undone."""
    outlook = at.seen.outlook
    if outlook.held:
        shown = f" ({names(at.away)})" if at.away else ""
        yield Problem(
            "recreation_held",
            Severity.WARNING,
            "drives are away for longer than `out_time`, and more than one node is while data "
            "waits for them",
            # None of them is to be forgotten while somebody waits for data.
            f"start the nodes that are away{shown}; if one is lost for good: "
            "docs/runbooks/quorum-lost.md",
            "it creates nothing anew until all data can be read: whoever starts would wait for it",
        )
    pools = {ref.pool for ref in outlook.stuck if ref.pool in at.state.pools}
    for pool in (at.state.pools[number] for number in sorted(pools)):
        count = sum(ref.pool == pool.id for ref in outlook.stuck)
        yield Problem(
            "no_other_domain",
            Severity.WARNING,
            f"{count} PGs of pool {pool.name} miss a drive for longer than `out_time`, and no "
            f"other domain ({pool.failure_domain.value}) has a drive for its copies",
            "bring the drive back, or add one in another domain",
            "it waits for either, with the copies that are left",
            (f"pool {pool.name}",),
        )
    crowded = [d for n in outlook.crowded if (d := at.state.drives.get(n)) is not None]
    if crowded:
        yield Problem(
            "evacuation_stuck",
            Severity.WARNING,
            f"what is on {names([f'drive {d.id} on {d.node_name}' for d in crowded])} can go "
            "nowhere: there are no other drives in enough domains",
            "add some, or keep them (`drystone drive evacuate ID --cancel`)",
            "they serve as before, and what has room leaves them",
            tuple(f"drive {d.id}" for d in crowded),
        )
