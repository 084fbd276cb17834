"""Drains: a node may be emptied while everything on the other nodes is there and in sync.

Every storage node has a guard pod, and no eviction of a guard is ever granted by its budget. For a
node that a person cordoned the operator takes the guard away, one failure unit at a time; so a
drain that finds no guard was looked at, and one that finds a guard waits. A unit is a fault set
where every pool keeps its copies in different ones, else a node.

The guard is the token of the exclusion: a node that is cordoned and has none was let go, and its
unit stays the only one until it is uncordoned and in sync again. Nothing is remembered besides.
A guard that somebody else deleted keeps our finalizer and counts as there: it was not let go.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from drystone_operator import names
from drystone_operator.plan.actions import Action, Apply, Create, LetGo
from drystone_operator.plan.rollout import COMPONENTS
from drystone_operator.plan.views import EngineView, NodeView, PodView, Unanswered
from drystone_operator.resources import guards
from drystone_operator.resources.base import Build
from drystone_operator.status import Condition

CONDITION: Final = "Draining"


@dataclass(frozen=True, slots=True)
class DrainSeen:
    """Nodes, pods and what a manager says; ``storage_nodes``: those that have a StorageNode."""

    nodes: tuple[NodeView, ...]
    storage_nodes: frozenset[str]
    pods: tuple[PodView, ...]
    engine: EngineView | Unanswered


@dataclass(frozen=True, slots=True)
class Drain:
    """What to do; which nodes are let go, now or before; a condition for each node."""

    actions: tuple[Action, ...] = ()
    leaving: frozenset[str] = frozenset()
    conditions: Mapping[str, Condition] = field(default_factory=dict)

    @property
    def taken(self) -> tuple[Action, ...]:
        """Guards that are taken away, which has to be decided from what is true right now."""
        return tuple(a for a in self.actions if isinstance(a, LetGo))

    @property
    def kept(self) -> tuple[Action, ...]:
        """All the rest: it takes nothing away."""
        return tuple(a for a in self.actions if not isinstance(a, LetGo))

    def __str__(self) -> str:
        """As a plan."""
        said = [f"{node}: {condition}" for node, condition in sorted(self.conditions.items())]
        return "\n".join([*(str(action) for action in self.actions), *said])


def plan(build: Build, seen: DrainSeen) -> Drain:
    """Guards that are missing or too many, and those that are taken away for a drain."""
    look = _Look(build, seen)
    if not look.nodes:
        return Drain(tuple(look.useless()))
    # The budget first: a guard without one could be evicted by anybody.
    actions: list[Action] = [Apply(guards.budget(build, len(look.nodes)))]
    actions += look.made()
    go, waits = look.judged()
    actions += [*look.useless(), *(look.removal(node) for node in go)]
    leaving = look.leaving | frozenset(go)
    conditions = {n.name: _condition(n, leaving, waits) for n in look.nodes.values()}
    return Drain(tuple(actions), leaving, conditions)


class _Look:
    """What was seen, by node."""

    def __init__(self, build: Build, seen: DrainSeen) -> None:
        self._build = build
        self._seen = seen
        self.nodes = {
            n.name: n
            for n in sorted(seen.nodes, key=lambda n: n.name)
            if n.name in seen.storage_nodes
            and n.labels.get(names.LABEL_NODE_SERVER) == build.instance
        }
        self._all = {p.name: p for p in seen.pods if p.component == guards.COMPONENT}
        named = {n: self._all.get(guards.pod_name(build, n)) for n in self.nodes}
        self._pods = {n: p for n, p in named.items() if p is not None}
        self._guards = {n: p for n, p in self._pods.items() if p.held or not p.deleting}
        self.leaving = frozenset(
            n.name for n in self.nodes.values() if n.unschedulable and n.name not in self._guards
        )

    def made(self) -> list[Action]:
        """A guard for every node that has none; a cordoned one was let go and gets none."""
        return [
            Create(guards.pod(self._build, n.name))
            for n in self.nodes.values()
            if n.name not in self._pods and n.ready is True and not n.unschedulable
        ]

    def _open(self, node: str) -> bool:
        return not self.nodes[node].unschedulable

    def useless(self) -> list[LetGo]:
        """Guards of nodes that are none of ours any more, and of others those that are useless.

        They ended, or somebody else deleted them, while nothing is drained: new ones are made. One
        of an older version stays: it does all that there is to do.
        """
        mine = {p.name for p in self._pods.values()}
        gone = [p for p in self._all.values() if p.name not in mine]
        ended = [p for n, p in self._guards.items() if (p.finished or p.deleting) and self._open(n)]
        found = [p for p in (*gone, *ended) if p.held or not p.deleting]
        return [_let_go(p) for p in sorted(found, key=lambda p: p.name)]

    def removal(self, node: str) -> LetGo:
        """Take a guard away."""
        return _let_go(self._guards[node])

    def judged(self) -> tuple[list[str], dict[str, str]]:
        """Of the nodes that wait for a drain: those that may go, and why the others may not."""
        waiting = [n for n in self._guards if self.nodes[n].unschedulable]
        engine = self._seen.engine
        if isinstance(engine, Unanswered):
            return [], dict.fromkeys(waiting, "a manager answers")
        away = self._away(engine)
        units = {n: _unit(engine, n) for n in {*self.nodes, *away}}
        go = [n for n in waiting if not _matters(engine, n) or _idle(engine, n)]
        waits: dict[str, str] = {}
        # First those whose unit is away anyhow: with them nothing more is taken away.
        rest = sorted((n for n in waiting if n not in go), key=lambda n: (n not in away, n))
        chosen = ""
        for node in rest:
            others = {n: why for n, why in away.items() if units[n] != units[node]}
            why = next((others[n] for n in sorted(others)), "") or self._why(engine, away)
            if not why and chosen and units[chosen] != units[node]:
                why = f"node {chosen}, which is let go, is back and uncordoned"
            if why:
                waits[node] = why
                continue
            chosen = chosen or node
            go.append(node)
        return go, waits

    def _why(self, engine: EngineView, away: Mapping[str, str]) -> str:
        """What of the whole cluster stands against it, whichever node it is."""
        pgs = engine.pgs
        if pgs.stalled or pgs.unavailable:
            return f"no placement group waits for copies ({pgs.stalled + pgs.unavailable} do)"
        if not pgs.all_in_sync and not away:
            return f"all placement groups are in sync ({pgs.in_sync} of {pgs.total})"
        return ""

    def _away(self, engine: EngineView) -> dict[str, str]:
        """Nodes that are not there with everything they have, and what is waited for."""
        known = {*self.nodes, *(d.node for d in engine.drives if d.needed)}
        found = {n: self._missing(engine, n) for n in sorted(known) if _matters(engine, n)}
        return {n: why for n, why in found.items() if why}

    def _missing(self, engine: EngineView, name: str) -> str:
        node = self.nodes.get(name)
        if node is None or node.ready is not True:
            return f"node {name} is ready"
        if name in self.leaving:
            return f"node {name}, which was let go, is back and uncordoned"
        return self._process(engine, name) or _drives(engine, name) or self._guardless(name)

    def _process(self, engine: EngineView, name: str) -> str:
        server = engine.node("server", name)
        if server is None or not server.connected:
            return f"the server of node {name} is connected"
        if server.beacon_connected is False:
            return f"the beacon of node {name} is connected"
        mine = [p for p in self._seen.pods if p.node == name and p.component in COMPONENTS]
        if not any(p.component == "server" for p in mine):
            return f"node {name} has a server pod"
        down = [p for p in mine if p.deleting or not p.ready]
        return f"pod {down[0].name} is ready again" if down else ""

    def _guardless(self, name: str) -> str:
        """Between an uncordon and the new guard the node could be cordoned again unseen."""
        waits = name not in self._guards and self._open(name)
        return f"node {name} has its guard pod" if waits else ""


def _let_go(pod: PodView) -> LetGo:
    return LetGo(pod.namespace, pod.name, pod.uid)


def _drives(engine: EngineView, name: str) -> str:
    sick = [d for d in engine.drives_of(name) if d.needed and not d.whole]
    return f"drive {sick[0].id} of node {name} is up and in sync" if sick else ""


def _matters(engine: EngineView, name: str) -> bool:
    """Whether anything depends on a node: copies on its drives, or its beacon's vote."""
    server = engine.node("server", name)
    votes = server is not None and server.votes is True
    return votes or any(d.state == "up" or d.needed for d in engine.drives_of(name))


def _idle(engine: EngineView, name: str) -> bool:
    """Whether nothing of what it has is in use or the last of its kind: it takes nothing along."""
    server = engine.node("server", name)
    votes = server is not None and server.votes is True
    return not votes and all(d.state != "up" and not d.in_sync for d in engine.drives_of(name))


def _unit(engine: EngineView, name: str) -> str:
    """What may be away together: a fault set where no pool has two copies in one, else a node."""
    apart = [p.failure_domain == "fault-set" and p.copies > 1 for p in engine.pools]
    server = engine.node("server", name)
    fault_set = server.fault_set if server is not None else ""
    return f"set {fault_set}" if apart and all(apart) and fault_set else f"node {name}"


def _condition(node: NodeView, leaving: frozenset[str], waits: Mapping[str, str]) -> Condition:
    if node.name in leaving:
        text = "It was let go: its pods may leave. Other nodes wait until it is uncordoned."
        return Condition(CONDITION, True, "LetGo", text)
    if node.name in waits:
        return Condition(CONDITION, True, "Waiting", f"Its drain waits until {waits[node.name]}.")
    return Condition(CONDITION, False, "NotCordoned", "The node is not cordoned.")
