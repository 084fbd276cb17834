"""StorageNode: one for each Kubernetes node that may serve disks, and what is said of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from drystone_operator import names
from drystone_operator.models.common import rounded_quantity
from drystone_operator.models.node import BeaconState
from drystone_operator.plan.actions import Action, Create, Plan, WriteStatus
from drystone_operator.plan.failover import Decision, Step
from drystone_operator.plan.views import EngineView, NodeView, PodView, Unanswered
from drystone_operator.resources.base import Build, labels, owner
from drystone_operator.status import Condition

Json = dict[str, Any]


ON_ITS_WAY_OUT: Final = ("GivingUpDisks", "Stopping", "Forgetting")
"""Steps of a removal in which its disks or its server are gone because that was wanted."""


@dataclass(frozen=True, slots=True)
class StorageNodeView:
    """A StorageNode object."""

    name: str
    node: str
    fault_set: str | None = None
    maintenance: str = ""
    """The reason of a maintenance that has not ended; empty = none."""
    until: datetime | None = None
    """When the announced one is over, also where that was in the past."""
    evacuate: bool = False
    """Whether its deletion empties its disks first."""
    deleting: bool = False
    held: bool = False
    """Whether our finalizer holds the object back."""


@dataclass(frozen=True, slots=True)
class NodesSeen:
    """Nodes of Kubernetes, the objects there are, and what a manager says."""

    nodes: tuple[NodeView, ...]
    objects: tuple[StorageNodeView, ...]
    engine: EngineView | Unanswered
    failover: Mapping[str, Decision] = field(default_factory=dict)
    draining: Mapping[str, Condition] = field(default_factory=dict)
    pods: tuple[PodView, ...] = ()
    said: Mapping[str, tuple[Condition, ...]] = field(default_factory=dict)
    """More conditions, by the name of the object."""
    stopped: frozenset[str] = frozenset()
    """Nodes that are being removed and are to run no server any more."""


def plan(build: Build, seen: NodesSeen) -> Plan:
    """Objects that are missing, and the status of those that are there."""
    if build.spec.is_external:
        return Plan()
    known = {o.node for o in seen.objects}
    actions: list[Action] = [
        Create(storage_node(build, node))
        for node in sorted(seen.nodes, key=lambda n: n.name)
        if node.name not in known and selected(build, node)
    ]
    first: set[str] = set()
    for one in sorted(seen.objects, key=lambda o: (o.node != o.name, o.name)):
        duplicate = one.node in first
        first.add(one.node)
        actions.append(status(build, one, seen, duplicate=duplicate))
    return Plan(tuple(actions))


def selected(build: Build, node: NodeView) -> bool:
    """Whether the spec's selector takes a node."""
    wanted = build.spec.nodes.selector
    return all(node.labels.get(key) == value for key, value in wanted.items())


def taken_by(build: Build, node: NodeView) -> str:
    """The other StorageCluster (`namespace.name`) whose processes run there; empty = none.

    Two of them would want the same ports and disks, and each would take the node from the other.
    """
    bears = (node.labels.get(names.LABEL_NODE_SERVER), node.labels.get(names.LABEL_NODE_BLOCK))
    return next((other for other in bears if other and other != build.instance), "")


def fault_sets(build: Build, seen: NodesSeen) -> dict[str, str]:
    """Fault set of every node that has an object and shall serve: as written, else its label."""
    by_name = {n.name: n for n in seen.nodes}
    found: dict[str, str] = {}
    for one in sorted(seen.objects, key=lambda o: (o.node == o.name, o.name)):
        if one.node in seen.stopped:
            continue
        node = by_name.get(one.node)
        label = node.labels.get(build.spec.fault_set_key, "") if node else ""
        found[one.node] = one.fault_set or label
    return found


def storage_node(build: Build, node: NodeView) -> Json:
    """The object for a node."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": "StorageNode",
        "metadata": {
            "name": node.name,
            "namespace": build.namespace,
            "labels": labels(build, "node"),
            "ownerReferences": [owner(build)],
        },
        "spec": {"nodeName": node.name},
    }


def status(build: Build, one: StorageNodeView, seen: NodesSeen, *, duplicate: bool) -> WriteStatus:
    """What to say of a node."""
    node = next((n for n in seen.nodes if n.name == one.node), None)
    ready = _wrong(build, one, node, duplicate=duplicate) or _ready(build, one, seen)
    conditions = [ready, _away(seen.failover.get(one.node))]
    if one.node in seen.draining:
        conditions.append(seen.draining[one.node])
    conditions += seen.said.get(one.name, ())
    return WriteStatus("StorageNode", one.name, tuple(conditions), _fields(one, node, seen))


def _ready(build: Build, one: StorageNodeView, seen: NodesSeen) -> Condition:
    if isinstance(seen.engine, Unanswered):
        return Condition("Ready", None, "ManagerUnreachable", "No manager answers.")
    said = {c.type: c for c in seen.said.get(one.name, ())}
    refused = "Maintenance" in said and said["Maintenance"].reason == "Unsafe"
    if one.maintenance and not refused:
        return Condition("Ready", False, "Maintenance", f"In maintenance: {one.maintenance}.")
    if "Removing" in said and said["Removing"].reason in ON_ITS_WAY_OUT:
        # What is missing there by now was taken away on purpose.
        return Condition("Ready", False, "Removing", said["Removing"].message)
    return _served(build, one.node, seen.engine, _last_words(one.node, seen))


def _last_words(node: str, seen: NodesSeen) -> str:
    """What the server said when it ended last, as far as it does not run."""
    servers = (p for p in seen.pods if p.component == "server" and p.node == node and not p.ready)
    said = next((p.said for p in servers if p.said), "")
    return f" It ended with: {said}" if said else ""


def _served(build: Build, node: str, engine: EngineView, said: str) -> Condition:
    server = engine.node("server", node)
    if server is None:
        text = f"The server of this node has not registered yet.{said}"
        return Condition("Ready", False, "Joining", text)
    if not server.connected:
        text = f"The server of this node is not connected to a manager.{said}"
        if "token" in said:
            # It has no identity, and the managers know one: the folder with it is gone.
            text += (
                " If the machine was installed anew, its identity is lost: "
                f"{_forget(build, node)} frees the name, and it joins as a new node. What its "
                "disks hold is then given up, and copied from the others. If its block pod does "
                f"not start either: {_forget(build, names.client_name(node))}"
            )
        return Condition("Ready", False, "ServerDown", text)
    if server.beacon_connected is False:
        return Condition(
            "Ready", False, "BeaconDown", "The beacon of this node is not connected to a manager."
        )
    sick = [d for d in engine.drives_of(node) if d.state != "up"]
    if sick:
        return Condition(
            "Ready",
            False,
            "DisksDown",
            f"{len(sick)} of its disks {'is' if len(sick) == 1 else 'are'} not up: "
            f"drive {sick[0].id} is {sick[0].state}. {sick[0].reason}".rstrip(),
        )
    return Condition("Ready", True, "Serving", "Its server is connected and its disks are up.")


def _wrong(
    build: Build, one: StorageNodeView, node: NodeView | None, *, duplicate: bool
) -> Condition | None:
    if duplicate:
        return Condition(
            "Ready",
            False,
            "Duplicate",
            f"Another StorageNode is about node {one.node} too; delete one of them.",
        )
    if len(one.node) > names.NODE_NAME_CHARS_MAX:
        return Condition(
            "Ready",
            False,
            "NameTooLong",
            f"Names of storage nodes have at most {names.NODE_NAME_CHARS_MAX} characters.",
        )
    if node is None:
        return Condition(
            "Ready",
            False,
            "NodeMissing",
            f"Kubernetes has no node {one.node}. If it is gone for good, "
            f"{_forget(build, one.node)} frees its name; then delete this object.",
        )
    other = taken_by(build, node)
    if other:
        return Condition(
            "Ready",
            False,
            "NodeTaken",
            f"Node {one.node} belongs to StorageCluster {other} (namespace.name). If that is gone: "
            f"`kubectl label node {one.node} {names.LABEL_NODE_SERVER}- {names.LABEL_NODE_BLOCK}-`",
        )
    return None


def _forget(build: Build, node: str) -> str:
    """The command as it can be pasted, whatever namespace the reader's kubectl is set to."""
    return f"`kubectl drystone -n {build.namespace} node forget {node} --yes`"


def _away(decision: Decision | None) -> Condition:
    if decision is None or decision.step is Step.WELL:
        return Condition("Fenced", False, "Well", "The node is well.")
    fenced = decision.step in (Step.MOVING, Step.AWAY, Step.RETURNING)
    text = decision.message[:1].upper() + decision.message[1:] + "."
    return Condition("Fenced", fenced, decision.step.value, text)


def _fields(one: StorageNodeView, node: NodeView | None, seen: NodesSeen) -> Json:
    found: Json = {}
    if node is not None:
        found["addresses"] = list(node.addresses[:16])
    decision = seen.failover.get(one.node)
    if decision is not None and decision.step is not Step.WELL and decision.since:
        found["failover"] = {
            "since": decision.since,
            "step": decision.message[:253],
            "fenced": decision.fenced,
            "tainted": decision.tainted,
            "podsDeleted": decision.pods_deleted,
        }
    if isinstance(seen.engine, Unanswered):
        return found
    server = seen.engine.node("server", one.node)
    client = seen.engine.node("client", names.client_name(one.node))
    if server is not None:
        found["serverVersion"] = server.version
        if server.beacon_connected is not None:
            state = BeaconState.CONNECTED if server.beacon_connected else BeaconState.AWAY
            found["beacon"] = state.value
        if server.votes is not None:
            found["quorumVote"] = "Voter" if server.votes else "NonVoter"
    if client is not None:
        found["blockVersion"] = client.version
    drives = seen.engine.drives_of(one.node)
    capacity = sum(d.capacity for d in drives)
    found |= {
        "capacity": rounded_quantity(capacity),
        "capacityBytes": capacity,
        "outOfSyncBytes": sum(d.resync_left for d in drives),
    }
    known = [d.used for d in drives if d.used is not None]
    if len(known) == len(drives):
        # Of a node that is away nothing is said: 0 would look as if its data were gone.
        used = sum(known)
        found |= {"used": rounded_quantity(used), "usedBytes": used}
    return found
