"""Rolling update of servers and beacons: one node after the other, each only when all is in sync.

A server that restarts leaves its copies behind for some seconds. With every placement group in
sync beforehand, and one node away, `min_insync` holds throughout, so writes go on. Nodes of one
fault set follow each other, but never go together: a pool may keep two copies inside of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from drystone_operator.models.cluster_parts import UpgradeStrategy
from drystone_operator.plan.actions import DeletePod
from drystone_operator.plan.views import EngineView, PodView, Unanswered

COMPONENTS: Final = ("server", "beacon")
"""Replaced together: each restart of either takes the node out of quorum for a moment."""


@dataclass(frozen=True, slots=True)
class RolloutSeen:
    """Pods, the digests of the templates wanted, fault sets by node, what a manager says."""

    pods: tuple[PodView, ...]
    templates: Mapping[str, str]
    fault_sets: Mapping[str, str]
    engine: EngineView | Unanswered
    strategy: UpgradeStrategy = UpgradeStrategy.ROLLING_UPDATE
    nodes_away: frozenset[str] = frozenset()
    """Nodes that are not ready, in a fail-over, or let go for a drain."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """Pods to replace now, how many are of an older version, and a sentence."""

    actions: tuple[DeletePod, ...]
    outdated: int
    message: str


def plan(seen: RolloutSeen) -> Rollout:
    """The next step, if there is one now."""
    pods = [p for p in seen.pods if p.component in COMPONENTS and p.component in seen.templates]
    old = [p for p in pods if p.template != seen.templates[p.component]]
    if not old:
        return Rollout((), 0, "every server runs the wanted version")
    if seen.strategy is UpgradeStrategy.ON_DELETE:
        return Rollout((), len(old), "pods are replaced when a person deletes them")
    node = _next(old, pods, seen)
    wait = _why_wait(seen, node, [p for p in pods if p.node != node])
    if wait:
        return Rollout((), len(old), f"node {node} is next, when {wait}")
    mine = [p for p in old if p.node == node and not p.deleting]
    actions = tuple(DeletePod(p.namespace, p.name, p.uid) for p in mine)
    return Rollout(actions, len(old), f"node {node} is being updated")


def _next(old: list[PodView], pods: list[PodView], seen: RolloutSeen) -> str:
    """A node that is down anyhow comes first: replacing its pods takes nothing more away."""
    waiting = sorted({p.node for p in old}, key=lambda n: (seen.fault_sets.get(n) or n, n))
    down = {p.node for p in pods if p.deleting or not p.ready}
    return next((n for n in waiting if n in down), waiting[0])


def _why_wait(seen: RolloutSeen, node: str, others: list[PodView]) -> str:
    if isinstance(seen.engine, Unanswered):
        return "a manager answers"
    if _managers_behind(seen):
        return "the managers run the wanted version"
    missing = _missing(seen, seen.engine, node, others)
    if missing:
        return missing
    pgs = seen.engine.pgs
    if not pgs.all_in_sync and not _serves_nothing(seen.engine, node):
        return f"all placement groups are in sync ({pgs.in_sync} of {pgs.total})"
    return ""


def _missing(seen: RolloutSeen, engine: EngineView, node: str, others: list[PodView]) -> str:
    """What else is away: never two nodes at once."""
    silent = [n.name for n in engine.nodes if n.beacon_connected is False and n.name != node]
    if silent:
        return f"the beacon of node {silent[0]} is connected"
    down = [p for p in others if p.deleting or not (p.ready or _waits_for_port(p, engine))]
    if down:
        return f"pod {down[0].name} is ready again"
    away = sorted(seen.nodes_away - {node})
    return f"node {away[0]} is back and uncordoned" if away else ""


def _waits_for_port(pod: PodView, engine: EngineView) -> bool:
    """A beacon whose server still has one inside: it begins when that server is replaced."""
    server = engine.node("server", pod.node) if pod.component == "beacon" else None
    return server is not None and server.connected and server.beacon_connected is None


def _managers_behind(seen: RolloutSeen) -> bool:
    """Managers first: one of an older version does not know what newer processes say."""
    wanted = seen.templates.get("manager")
    managers = [p for p in seen.pods if p.component == "manager"]
    return any(p.deleting or not p.ready or p.template != wanted for p in managers)


def _serves_nothing(engine: EngineView, node: str) -> bool:
    """Whether its drives are all down: a version that never starts must be replaceable."""
    drives = engine.drives_of(node)
    return bool(drives) and all(d.state != "up" for d in drives)
