"""Maintenance of a storage node: when it may be taken away, and what that holds up meanwhile.

It changes nothing about how failures are found: a node that goes is dropped and copied back like
any other. It says beforehand whether that would stop anybody or risk the last copy of something,
keeps copies from being made anew elsewhere meanwhile, and makes one sentence of what is expected.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from drystone_common.errors import DataError
from drystone_storaged.cluster import keys, membership
from drystone_storaged.cluster.codec import decode
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.records import DriveState, Maintenance, Node, Voters
from drystone_storaged.cluster.store import MetadataStore

FOR_MIN_S: Final = 60  # a process is restarted faster than that, and needs no announcement
FOR_MAX_S: Final = 7 * 86_400
"""Longer than a week a cluster should not be short of a copy: its data is moved elsewhere then."""

LEFT_MIN: Final = 2  # with one live copy left the next failure loses data
REASON_MAX: Final = 200  # it stands in a line of `status`

Records = Mapping[str, Maintenance]
"""By node."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a node must stay. ``forcible``: less redundancy than wanted, and nothing worse."""

    why: str
    """``last_copy``, ``min_insync``, ``voters`` or ``redundancy``: stable, for programs."""
    text: str
    hint: str
    count: int = 0
    example: str = ""
    forcible: bool = False


@dataclass(frozen=True, slots=True)
class Cluster:
    """What the decision looks at beside the map."""

    servers: Collection[Node]
    voters: Voters
    alive: frozenset[str]
    """Uuids of the nodes that answer: their votes count."""
    records: Records
    now_s: float


@dataclass(frozen=True, slots=True)
class _Loss:
    """PGs that have a copy on the node, by what would be left of them."""

    none: list[PgRef]
    stalled: list[PgRef]
    thin: list[PgRef]


async def standing(store: MetadataStore) -> dict[str, Maintenance]:
    """Every record, by node; their number is bounded by that of the nodes."""
    page = await store.range(keys.MAINTENANCE)
    found = {}
    for item in page.items:
        # One that cannot be read announces nothing; it must not stop what else is looked at.
        with contextlib.suppress(DataError):
            found[item.key.removeprefix(keys.MAINTENANCE)] = decode(Maintenance, item.value)
    return found


def lasts(record: Maintenance | None, now_s: float) -> bool:
    """Whether somebody works there now."""
    return record is not None and now_s < record.until_s


def overdue(record: Maintenance | None, now_s: float) -> bool:
    """Whether it should be over, and nobody said that it is."""
    return record is not None and not record.ended and now_s >= record.until_s


def is_back(state: MapState, node: str) -> bool:
    """Whether every drive of a node serves, and no placement group waits for one."""
    mine = {d.id: d for d in state.drives.values() if d.node == node}
    live = [d for d in mine.values() if d.state is not DriveState.GONE]
    waited_for = {
        number
        for pg in state.known_pgs().values()
        for number in (*(o.drive for o in pg.out), *(j.drive for j in pg.joining))
    }
    return all(d.state is DriveState.UP for d in live) and waited_for.isdisjoint(mine)


def refusal(state: MapState, cluster: Cluster, node: Node) -> Refusal | None:
    """Why this node must not go away now, the gravest reason first; None = it may."""
    loss = _loss(state, node)
    if loss.none:
        return Refusal(
            "last_copy",
            f"{len(loss.none)} PGs, such as {_name(state, loss.none[0])}, have their only live "
            f"in-sync copy on node {node.name}",
            "wait until the other copies are in sync (`drystone status`); that cannot be forced",
            len(loss.none),
            _name(state, loss.none[0]),
        )
    if loss.stalled:
        return Refusal(
            "min_insync",
            f"without node {node.name} {len(loss.stalled)} PGs, such as "
            f"{_name(state, loss.stalled[0])}, have fewer live in-sync copies than min_insync: "
            "writes to them would wait",
            "wait until other copies are in sync, or accept fewer (`drystone pool set`)",
            len(loss.stalled),
            _name(state, loss.stalled[0]),
        )
    return _voters(cluster, node) or _redundancy(state, cluster, node, loss)


def _loss(state: MapState, node: Node) -> _Loss:
    mine = {d.id for d in state.drives.values() if d.node == node.uuid}
    up = {d.id for d in state.drives.values() if d.state is DriveState.UP} - mine
    loss = _Loss([], [], [])
    for ref, pg in state.known_pgs().items():
        if mine.isdisjoint(pg.insync):
            continue  # it loses nothing that it counts on
        pool = state.pools[ref.pool]
        left = len(up.intersection(pg.insync))
        if left == 0:
            loss.none.append(ref)
        elif left < membership.effective_min_insync(pool.min_insync, pool.width):
            loss.stalled.append(ref)
        elif left < max(LEFT_MIN, pool.width - 1):
            loss.thin.append(ref)
    return loss


def _voters(cluster: Cluster, node: Node) -> Refusal | None:
    voters = cluster.voters.nodes
    left = len(cluster.alive.intersection(voters) - {node.uuid})
    majority = len(voters) // 2 + 1
    if not voters or left >= majority:
        return None
    return Refusal(
        "voters",
        f"without node {node.name} {left} of {len(voters)} voters answer, a majority is "
        f"{majority}: nothing could be read or written",
        "start the servers and beacons that are away first; that cannot be forced",
        left,
    )


def _redundancy(state: MapState, cluster: Cluster, node: Node, loss: _Loss) -> Refusal | None:
    unit = _unit(node)
    others = [n for n in cluster.servers if _unit(n) != unit]
    worked_on = sorted(n.name for n in others if lasts(cluster.records.get(n.uuid), cluster.now_s))
    away = sorted(n.name for n in others if n.uuid not in cluster.alive)
    text = ""
    if worked_on:
        text = f"node {worked_on[0]} is in maintenance already"
    elif away:
        text = f"node {away[0]} is away already"
    elif loss.thin:
        text = f"{len(loss.thin)} PGs, such as {_name(state, loss.thin[0])}, would have one failure"
        text += " less to spare than wanted, or a single live copy"
    if not text:
        return None
    return Refusal(
        "redundancy",
        f"{text}: one failure more during the maintenance of node {node.name} could stop writes "
        "or lose data",
        "wait until everything is back in sync, or accept the risk with --force",
        len(loss.thin) or len(worked_on) or len(away),
        _name(state, loss.thin[0]) if loss.thin else (worked_on or away)[0],
        forcible=True,
    )


def _unit(node: Node) -> tuple[str, str]:
    """What fails together: a fault set, else the node."""
    return ("set", node.fault_set) if node.fault_set else ("node", node.uuid)


def _name(state: MapState, ref: PgRef) -> str:
    return f"{state.pools[ref.pool].name}/{ref.pg}"
