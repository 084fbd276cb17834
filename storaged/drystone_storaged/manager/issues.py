"""What is wrong, in sentences that say what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final

from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.records import Drive, DriveState, Node, Pool
from drystone_storaged.manager.drivestats import DriveStats

NAMES_MAX: Final = 5  # in one sentence; the tables below it show all
FULL_PERCENT: Final = 85  # at 100 writes stop, and freeing space takes time


def find_issues(
    state: MapState,
    servers: Sequence[Node],
    counts: Counter[str],
    connected: Callable[[Node], bool],
    stats: DriveStats,
) -> list[str]:
    """Every sentence, the gravest first."""
    drives = [d for d in state.drives.values() if d.state is not DriveState.GONE]
    away = {node.name for node in servers if not connected(node)}
    return [
        *_groups(state, drives, counts),
        *_nodes(sorted(away)),
        *_drives(drives, away, stats),
        *(sentence for pool in state.pools.values() for sentence in _pool(pool, len(servers))),
    ]


def _groups(state: MapState, drives: list[Drive], counts: Counter[str]) -> Iterator[str]:
    down = {d.id: d for d in drives if d.state is not DriveState.UP}
    if counts["unavailable"]:
        held = {k: r for k, r in state.pgs().items() if all(d in down for d in r.insync)}
        wanted = {down[d].node_name for r in held.values() for d in r.insync}
        first = min(held, key=lambda ref: (ref.pool, ref.pg))
        example = f"{state.pools[first.pool].name}/{first.pg}"
        yield (
            f"{counts['unavailable']} PGs have no in-sync copy on a drive that is up, I/O to them "
            f"waits: start {_names('node', wanted)}; only if those drives are lost for good, give "
            f"the newest data of each up (`drystone pool mark-lost {example}`, and so on)"
        )
    missing = {
        down[d].node_name for r in state.pgs().values() for d in (*r.insync, *r.target) if d in down
    }
    remedy = f"start {_names('node', missing)}" if missing else "resync brings them back, wait"
    if counts["stalled"]:
        yield (
            f"{counts['stalled']} PGs have fewer in-sync copies than min_insync, writes to them "
            f"wait: {remedy}"
        )
    if counts["degraded"]:
        yield f"{counts['degraded']} PGs miss a copy: {remedy}"
    if counts["resyncing"]:
        yield f"{counts['resyncing']} PGs are being resynced: nothing to do, it ends by itself"


def _nodes(away: Sequence[str]) -> Iterator[str]:
    for name in away:
        yield (
            f"node {name} is not connected: start `drystone server` there or see its log; if it "
            f"is gone for good, `drystone node forget {name}` places its copies elsewhere"
        )


def _drives(drives: list[Drive], away: Collection[str], stats: DriveStats) -> Iterator[str]:
    for drive in drives:
        where = f"drive {drive.id} on {drive.node_name}"
        if drive.state is DriveState.DOWN and drive.node_name not in away:
            yield f"{where} is down{_remedy(drive)}"
        figures = stats.get(drive.id)
        if figures is None:
            continue
        spent = 100 * (figures.used + figures.reserved) // max(1, figures.capacity)
        if spent >= FULL_PERCENT:
            yield f"{where} is {spent} % full: delete volumes, or use a pool on other drives"
        if figures.bad_blocks:
            yield (
                f"{where} had {figures.bad_blocks} bad blocks, {figures.healed_blocks} healed from "
                f"another copy: run `drystone drive scrub {drive.id}`, replace it if they grow"
            )


def _remedy(drive: Drive) -> str:
    if not drive.ended and drive.reason:
        # Proven by others, not said by its server: it reports itself when it does well.
        return f" ({drive.reason}): it comes back by itself when it does well again"
    why = f" ({drive.reason})" if drive.reason else ""
    return (
        f"{why}: see the log of its server, which opens it again at a restart; replace the disk "
        "if it fails again"
    )


def _pool(pool: Pool, servers: int) -> Iterator[str]:
    if pool.width < pool.copies:
        yield (
            f"pool {pool.name} keeps {pool.width} of {pool.copies} copies, more domains "
            f"({pool.failure_domain.value}) were not there when it was made: add some, make a new "
            "pool for new volumes"
        )
    if pool.failure_domain.value == "drive" and servers < pool.copies:
        yield (
            f"pool {pool.name} keeps copies on one node, whose loss loses data: add nodes until "
            f"there are {pool.copies}, make a new pool for new volumes"
        )


def _names(kind: str, names: Collection[str]) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - NAMES_MAX} more" if len(shown) > NAMES_MAX else ""
    return f"{kind} {', '.join(shown[:NAMES_MAX])}{more}"
