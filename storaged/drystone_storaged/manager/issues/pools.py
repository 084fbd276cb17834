"""Pools whose copies are fewer, or nearer together, than was asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from drystone_storaged.cluster.records import Pool
from drystone_storaged.manager.issues.look import Moment
from drystone_storaged.manager.problems import Problem, Severity


def of_pools(at: Moment) -> Iterator[Problem]:
    """Each pool in turn."""
    for pool in at.state.pools.values():
        if pool.width < pool.copies:
            yield Problem(
                "pool_narrow",
                Severity.WARNING,
                f"pool {pool.name} keeps {pool.width} of {pool.copies} copies, there are no more "
                f"domains ({pool.failure_domain.value})",
                "add some, they are used by themselves",
                "it keeps as many copies as there are domains",
                (f"pool {pool.name}",),
            )
        if pool.failure_domain.value == "drive" and len(at.servers) < pool.copies:
            yield from _together(at, pool)


def _together(at: Moment, pool: Pool) -> Iterator[Problem]:
    homes = {d.id: d.node for d in at.state.drives.values()}
    together = [
        Counter(homes.get(d) for d in pg.target).most_common(1)[0][1] - len(pg.target)
        for pg in at.state.pgs(pool.id).values()
        if pg.target
    ]
    if not together:
        return
    alone = any(least == 0 for least in together)
    yield Problem(
        "copies_on_one_node" if alone else "copies_share_node",
        Severity.WARNING,
        f"pool {pool.name} keeps all copies of PGs on one node, whose loss loses data"
        if alone
        else f"pool {pool.name} keeps more than one copy of a PG on the same node, whose loss "
        "takes them together",
        f"add nodes until there are {pool.copies}, make a new pool for new volumes",
        "it keeps the copies on different drives",
        (f"pool {pool.name}",),
    )
