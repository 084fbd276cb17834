"""One moment of the cluster, as everything that is wrong is told from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from drystone_storaged.cluster.maintenance import lasts
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.records import Drive, DriveHealth, DriveState, Maintenance, Node
from drystone_storaged.manager.drivestats import DriveStats
from drystone_storaged.manager.refusals import Refusal, Refusals
from drystone_storaged.manager.scrub_plan import ScrubRecords
from drystone_storaged.manager.upkeep import Outlook

NAMES_MAX: Final = 5  # in one sentence; the tables below it show all


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known beside the map: who is connected, what servers reported."""

    connected: Callable[[Node], bool]
    beacons_away: Collection[str]
    """Storage nodes whose beacon is a process of its own that is not connected."""
    stats: DriveStats
    refusals: Refusals
    voters: Collection[str] = ()
    """Uuids of the storage nodes that vote on silence; empty = the first list is still made."""
    waiting: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Consuming nodes without a session, with the names of the volumes attached there."""
    unreached: Sequence[tuple[str, int]] = ()
    """Processes that alone do not reach a joining drive, with its number."""
    claimed: Sequence[str] = ()
    """Names of processes that another one with the same identity wants to be."""
    maintenance: Mapping[str, Maintenance] = field(default_factory=dict)
    """By uuid of the storage node."""
    now_s: float = 0.0
    gone_s: Callable[[Node], float | None] = lambda _: None
    """For how long a storage node's session is over; None = it had none while this one leads."""
    outlook: Outlook = field(default_factory=Outlook)
    """What the upkeep could not do."""
    health: Mapping[int, DriveHealth] = field(default_factory=dict)
    """What is held against drives."""
    scrubbed: ScrubRecords = field(default_factory=ScrubRecords)
    """How the last scrubs and comparisons ended."""
    closed: Mapping[int, frozenset[PgRef]] = field(default_factory=dict)
    """What drives cannot serve although they are in sync, as they said."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Drives that were not forgotten; of those that are down the reason, where a server says it."""

    state: MapState
    servers: Sequence[Node]
    counts: Counter[str]
    seen: Seen
    drives: list[Drive]
    down: dict[int, Drive]
    refused: dict[int, Refusal]
    away: frozenset[str]
    needed: frozenset[int]
    worked_on: frozenset[str]
    """Names of the nodes that are away and in maintenance."""

    @property
    def worst(self) -> bool:
        """Whether I/O waits somewhere."""
        return bool(self.counts["stalled"] or self.counts["unavailable"])

    def away_since_s(self, node: Node) -> int | None:
        """When its session ended, by the wall clock."""
        gone_s = self.seen.gone_s(node)
        return None if gone_s is None else int(self.seen.now_s - gone_s)

    def remedy(self, numbers: Collection[int]) -> str:
        """How to get these drives back."""
        missing = [self.down[n] for n in numbers]
        nodes = {d.node_name for d in missing if d.node_name in self.away}
        # A server that is there and refuses its drive need not be started.
        here = {f"drive {d.id} on {d.node_name}" for d in missing if d.node_name not in self.away}
        worked_on = nodes & self.worked_on
        nodes -= worked_on
        steps = [f"start the server on {names(nodes)}"] if nodes else []
        steps += [f"wait for the end of the maintenance of {names(worked_on)}"] if worked_on else []
        steps += [f"bring back {names(here)}, see below"] if here else []
        return " and ".join(steps)


def look(state: MapState, servers: Sequence[Node], counts: Counter[str], seen: Seen) -> Moment:
    """Sort what is known."""
    drives = [d for d in state.drives.values() if d.state is not DriveState.GONE]
    down = {d.id: d for d in drives if d.state is not DriveState.UP}
    told = {(node.uuid, r.uuid): r for node in servers for r in seen.refusals.of(node.uuid)}
    refused = {n: told[d.node, d.uuid] for n, d in down.items() if (d.node, d.uuid) in told}
    missing = [node for node in servers if not seen.connected(node)]
    away = frozenset(node.name for node in missing)
    # Of a node that is away the drives may not be known as down yet: nobody shall be told in the
    # meantime to forget the last copies.
    gone = {d.id for d in drives if d.id in down or d.node_name in away}
    lost = [r for r in state.known_pgs().values() if gone.issuperset(r.insync)]
    needed = frozenset(d for record in lost for d in record.insync)
    worked_on = frozenset(
        n.name for n in missing if lasts(seen.maintenance.get(n.uuid), seen.now_s)
    )
    return Moment(state, servers, counts, seen, drives, down, refused, away, needed, worked_on)


def names(found: Collection[str]) -> str:
    """Some of them, in order, and how many more."""
    shown = sorted(found)
    more = f" and {len(shown) - NAMES_MAX} more" if len(shown) > NAMES_MAX else ""
    return f"{', '.join(shown[:NAMES_MAX])}{more}"


def moment(at_s: float) -> str:
    """A time of day as every machine understands it."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
