"""What is wrong, in sentences that say what to do next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from drystone_storaged.cluster.drives import REMOVED, STOPPED
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.records import Drive, DriveState, Node, Pool
from drystone_storaged.cluster.replace import has_room
from drystone_storaged.manager.drivestats import DriveFigures, DriveStats
from drystone_storaged.manager.refusals import ENOSPC, FAILED, Refusal, Refusals

NAMES_MAX: Final = 5  # in one sentence; the tables below it show all
FULL_PERCENT: Final = 85  # at 100 writes stop, and freeing space takes time


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known beside the map: who is connected, what servers reported."""

    connected: Callable[[Node], bool]
    beacons_away: Collection[str]
    """Storage nodes whose beacon is a process of its own that is not connected."""
    stats: DriveStats
    refusals: Refusals
    waiting: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Consuming nodes without a session, with the names of the volumes attached there."""


@dataclass(frozen=True, slots=True)
class _Drives:
    """Drives that were not forgotten; of those that are down the reason, where a server says it."""

    all: list[Drive]
    down: dict[int, Drive]
    refused: dict[int, Refusal]
    away: frozenset[str]
    needed: frozenset[int]

    def remedy(self, numbers: Collection[int]) -> str:
        """How to get these drives back."""
        missing = [self.down[n] for n in numbers]
        nodes = {d.node_name for d in missing if d.node_name in self.away}
        # A server that is there and refuses its drive need not be started.
        here = {f"drive {d.id} on {d.node_name}" for d in missing if d.node_name not in self.away}
        steps = [f"start the server on {_names(nodes)}"] if nodes else []
        steps += [f"bring back {_names(here)}, see below"] if here else []
        return " and ".join(steps)


def find_issues(
    state: MapState, servers: Sequence[Node], counts: Counter[str], seen: Seen
) -> list[str]:
    """Every sentence, the gravest first."""
    drives = _look(state, servers, seen)
    return [
        *_groups(state, drives, counts),
        *_nodes(state, drives, servers, worst=bool(counts["stalled"] or counts["unavailable"])),
        *_beacons(seen.beacons_away, drives.away),
        *_clients(seen.waiting),
        *_places(drives, servers, seen.refusals),
        *_drives(drives, seen.stats),
        *(line for pool in state.pools.values() for line in _pool(pool, state, len(servers))),
    ]


def _look(state: MapState, servers: Sequence[Node], seen: Seen) -> _Drives:
    drives = [d for d in state.drives.values() if d.state is not DriveState.GONE]
    down = {d.id: d for d in drives if d.state is not DriveState.UP}
    told = {(node.uuid, r.uuid): r for node in servers for r in seen.refusals.of(node.uuid)}
    refused = {n: told[d.node, d.uuid] for n, d in down.items() if (d.node, d.uuid) in told}
    away = frozenset(node.name for node in servers if not seen.connected(node))
    # Of a node that is away the drives may not be known as down yet: nobody shall be told in the
    # meantime to forget the last copies.
    gone = {d.id for d in drives if d.id in down or d.node_name in away}
    lost = [r for r in state.pgs().values() if gone.issuperset(r.insync)]
    needed = frozenset(d for record in lost for d in record.insync)
    return _Drives(drives, down, refused, away, needed)


def _groups(state: MapState, drives: _Drives, counts: Counter[str]) -> Iterator[str]:
    pgs = state.pgs()
    if counts["unavailable"]:
        held = [k for k, r in pgs.items() if all(d in drives.down for d in r.insync)]
        first = min(held, key=lambda ref: (ref.pool, ref.pg))
        example = f"{state.pools[first.pool].name}/{first.pg}"
        here = drives.needed.intersection(drives.down)
        remedy = drives.remedy(here) or "their drives were forgotten"
        yield (
            f"{counts['unavailable']} PGs have no in-sync copy on a drive that is up, I/O to them "
            f"waits: {remedy}; only if those drives are lost for good, give "
            f"the newest data of each up (`drystone pool mark-lost {example} --yes`, and so on)"
        )
    missing = {d for r in pgs.values() for d in (*r.insync, *r.target) if d in drives.down}
    remedy = _lacking(state, drives, missing)
    if counts["stalled"]:
        yield (
            f"{counts['stalled']} PGs have fewer in-sync copies than min_insync, writes to them "
            f"wait: {remedy}"
        )
    if counts["degraded"]:
        yield f"{counts['degraded']} PGs miss a copy: {remedy}"
    if counts["resyncing"]:
        yield f"{counts['resyncing']} PGs are being resynced: nothing to do, it ends by itself"


def _lacking(state: MapState, drives: _Drives, missing: Collection[int]) -> str:
    """What to do about copies that are not there."""
    steps = [drives.remedy(missing)] if missing else []
    short = {
        ref.pool for ref, r in state.pgs().items() if len(r.target) < state.pools[ref.pool].width
    }
    steps += [
        f"pool {pool.name} has an empty place: add a drive in another domain "
        f"({pool.failure_domain.value}) than its others, it is taken into use by itself"
        for pool in (state.pools[number] for number in sorted(short))
    ]
    return "; ".join(steps) or "resync brings them back, wait"


def _nodes(
    state: MapState, drives: _Drives, servers: Sequence[Node], *, worst: bool
) -> Iterator[str]:
    needed = {d.node_name for d in drives.all if d.id in drives.needed}
    known = {node.uuid: node for node in servers}
    for node in sorted(servers, key=lambda each: each.name):
        if node.name not in drives.away:
            continue
        line = f"node {node.name} is not connected: start `drystone server` there or see its log"
        # While I/O waits for copies nobody shall give one up.
        if node.name not in needed and not worst:
            forget = f"`drystone node forget {node.name} --yes`"
            line += (
                f"; if it is gone for good, {forget} places its copies elsewhere"
                if has_room(state, known, node.uuid)
                else f"; if it is gone for good, add another node for its copies, then {forget}"
            )
        yield line


def _beacons(beacons_away: Collection[str], servers_away: Collection[str]) -> Iterator[str]:
    # A node that is away altogether is told of already.
    for name in sorted(set(beacons_away).difference(servers_away)):
        yield (
            f"the beacon of node {name} is not connected, without it the server there answers no "
            "reads: start `drystone beacon` there or see its log"
        )


def _clients(waiting: Mapping[str, Sequence[str]]) -> Iterator[str]:
    for name, volumes in sorted(waiting.items()):
        yield (
            f"the block daemon of node {name} is not connected, devices of {_names(volumes)} wait "
            "if it is dead or frozen: see its log, start it there; to use a volume elsewhere, "
            f"`drystone volume detach NAME --node {name} --force`"
        )


def _places(drives: _Drives, servers: Sequence[Node], refusals: Refusals) -> Iterator[str]:
    """What is no drive of the cluster, or not yet: a new disk that cannot be taken."""
    if not drives.all:
        yield (
            "there are no drives: take one into use (`drystone drive add NODE DEVICE`; in "
            "Kubernetes `state: In` on a StorageDisk), or name one in a server's settings"
        )
    known = set(drives.refused.values())
    for node in servers:
        for refusal in refusals.of(node.uuid):
            if refusal not in known:
                yield f"node {node.name} refuses a drive ({refusal.code}): {refusal.reason}"


def _drives(drives: _Drives, stats: DriveStats) -> Iterator[str]:
    for drive in drives.all:
        where = f"drive {drive.id} on {drive.node_name}"
        refusal = drives.refused.get(drive.id)
        if refusal is not None and refusal.code == FAILED:
            yield f"{where} failed and answers nothing: {refusal.reason}{_reopen(refusal.reason)}"
        elif refusal is not None:
            yield f"{where} is refused by its server ({refusal.code}): {refusal.reason}"
        elif drive.reason == REMOVED and drive.id not in drives.needed:
            continue  # as somebody asked for
        elif drive.id in drives.down and drive.node_name not in drives.away:
            yield f"{where} is down{_remedy(drive)}"
        figures = stats.get(drive.id)
        if figures is None:
            continue
        spent = 100 * (figures.used + figures.reserved) // max(1, figures.capacity)
        if spent >= FULL_PERCENT:
            yield f"{where} is {spent} % full: delete volumes, or use a pool on other drives"
        if figures.bad_blocks:
            yield f"{where} {_bad_blocks(drive.id, figures)}"
        yield from figures.stuck_copies


def _reopen(reason: str) -> str:
    """How a failed drive comes back, where its server did not find out what is to be cured."""
    if ENOSPC in reason:
        return ""
    return (
        ": see the log of its server and `dmesg`; a restart of that server opens it again, "
        "replace the disk if it fails again"
    )


def _bad_blocks(drive: int, figures: DriveFigures) -> str:
    healed = min(figures.healed_blocks, figures.bad_blocks)
    left = figures.bad_blocks - healed
    had = f"had {figures.bad_blocks} bad blocks, {healed} healed from another copy"
    if left:
        return (
            f"{had}, {left} not healed: they are tried again by themselves; if the other copies "
            "are up and the number stays, replace the drive"
        )
    return f"{had}: run `drystone drive scrub {drive}` to find others, replace it if they grow"


def _remedy(drive: Drive) -> str:
    if drive.reason == STOPPED:
        # History: its node is connected again.
        return ": its server runs again and has not opened it yet, see its log if that lasts"
    if not drive.ended and drive.reason:
        # Proven by others, not said by its server: it reports itself when it does well.
        return (
            f" ({drive.reason}): it comes back by itself when it does well again; if it does not, "
            "its server may be frozen or its device hang: see its log or restart it"
        )
    why = f" ({drive.reason})" if drive.reason else ""
    return (
        f"{why}: see the log of its server, which opens it again at a restart; replace the disk "
        "if it fails again"
    )


def _pool(pool: Pool, state: MapState, servers: int) -> Iterator[str]:
    if pool.width < pool.copies:
        yield (
            f"pool {pool.name} keeps {pool.width} of {pool.copies} copies, there are no more "
            f"domains ({pool.failure_domain.value}): add some, they are used by themselves"
        )
    if pool.failure_domain.value != "drive" or servers >= pool.copies:
        return
    remedy = f"add nodes until there are {pool.copies}, make a new pool for new volumes"
    homes = {d.id: d.node for d in state.drives.values()}
    together = [
        Counter(homes.get(d) for d in pg.target).most_common(1)[0][1] - len(pg.target)
        for pg in state.pgs(pool.id).values()
        if pg.target
    ]
    if any(least == 0 for least in together):
        yield (
            f"pool {pool.name} keeps all copies of PGs on one node, whose loss loses data: {remedy}"
        )
    elif together:
        yield (
            f"pool {pool.name} keeps more than one copy of a PG on the same node, whose loss takes "
            f"them together: {remedy}"
        )


def _names(names: Collection[str]) -> str:
    shown = sorted(names)
    more = f" and {len(shown) - NAMES_MAX} more" if len(shown) > NAMES_MAX else ""
    return f"{', '.join(shown[:NAMES_MAX])}{more}"
