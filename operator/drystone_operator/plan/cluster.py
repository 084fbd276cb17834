"""StorageCluster: what to make and apply for it, and what to say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from drystone_operator import names
from drystone_operator.models.common import rounded_quantity
from drystone_operator.plan import cluster_status, tls
from drystone_operator.plan.actions import (
    Action,
    AddJoinToken,
    Apply,
    Create,
    CreateSecret,
    DropJoinTokens,
    LabelNode,
    Plan,
    ReadoptVolume,
    SetFinalizer,
    WriteStatus,
)
from drystone_operator.plan.local_volumes import local_volumes
from drystone_operator.plan.nodes import taken_by
from drystone_operator.plan.tls import NOTHING, TlsSeen
from drystone_operator.plan.views import (
    EngineView,
    NodeView,
    PodView,
    Unanswered,
    Workload,
)
from drystone_operator.resources.base import Build, labels
from drystone_operator.resources.children import children
from drystone_operator.status import Condition

Json = dict[str, Any]


NOT_ASKED: Final = Unanswered("not_asked", "There is no token for them yet.")


@dataclass(frozen=True, slots=True)
class ClusterWanted:
    """A StorageCluster as a person wrote it."""

    build: Build
    not_deleted: Condition | None = None
    """Why it is not deleted although a person asked for it."""
    finalizers: tuple[str, ...] = ()
    known_uuid: str = ""
    """The cluster's id as its status has it: data exists, so keys must not be made anew."""


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """What there is. ``secrets``: keys of each Secret that exists, by its name."""

    secrets: Mapping[str, frozenset[str]] = field(default_factory=dict)
    workloads: tuple[Workload, ...] = ()
    pods: tuple[PodView, ...] = ()
    nodes: tuple[NodeView, ...] = ()
    storage_nodes: Mapping[str, str] = field(default_factory=dict)
    """Fault set of every StorageNode, by the name of its node; empty = its own."""
    local_volumes: Mapping[str, str] = field(default_factory=dict)
    """Node of every local volume that exists, by the volume's name."""
    released_volumes: tuple[str, ...] = ()
    """Those of them whose claim was deleted."""
    engine: EngineView | Unanswered = NOT_ASKED
    rollout: str = ""
    """How far the update of the servers is, in words; empty = there is none."""
    available_disks: int = 0
    tls: TlsSeen = NOTHING


def plan(wanted: ClusterWanted, seen: ClusterSeen) -> Plan:
    """What to do for a StorageCluster, also for one whose deletion is refused."""
    if isinstance(seen.engine, Unanswered) and seen.engine.is_other:
        # Whatever is done now would be done to somebody else, or on somebody else's word.
        return Plan((status(wanted, seen, wanted.not_deleted),))
    missing = _missing_secret(wanted, seen)
    held = _hold(wanted)
    if missing is not None:
        return Plan((*held, status(wanted, seen, missing)))
    actions: list[Action] = [*held, *_secrets(wanted, seen), *tls.plan(wanted.build, seen.tls)]
    actions += [
        Create(body) for body in local_volumes(wanted.build, seen.nodes, seen.local_volumes)
    ]
    actions += [ReadoptVolume(name) for name in sorted(seen.released_volumes)]
    fault_sets = {} if wanted.build.spec.is_external else seen.storage_nodes
    actions += [Apply(body) for body in children(_informed(wanted.build, seen), fault_sets)]
    actions += admissions(wanted.build, seen)
    return Plan((*actions, status(wanted, seen, wanted.not_deleted)))


def _informed(build: Build, seen: ClusterSeen) -> Build:
    """With what the Secret for a person's etcd has: the managers' settings hang on it."""
    ref = _etcd_secret(build)
    return build if ref is None else replace(build, etcd_keys=seen.secrets[ref])


def _etcd_secret(build: Build) -> str | None:
    etcd = build.spec.metadata.etcd if build.spec.metadata else None
    return etcd.tls_secret_ref.name if etcd and etcd.tls_secret_ref else None


def _hold(wanted: ClusterWanted) -> tuple[Action, ...]:
    if names.FINALIZER in wanted.finalizers or wanted.not_deleted is not None:
        return ()
    return (SetFinalizer("StorageCluster", wanted.build.name, present=True),)


def _missing_secret(wanted: ClusterWanted, seen: ClusterSeen) -> Condition | None:
    build = wanted.build
    for ref in build.spec.secrets:
        if ref.name not in seen.secrets:
            return Condition(
                "Ready",
                False,
                "SecretMissing",
                f"Secret {ref.name} that the spec names is not there.",
            )
    etcd = _etcd_secret(build)
    if etcd is not None and "ca.crt" not in seen.secrets[etcd]:
        text = f"Secret {etcd} has no ca.crt, which etcd's certificates are verified with."
        return Condition("Ready", False, "SecretMissing", text)
    master = build.child("master")
    if not build.spec.is_external and wanted.known_uuid and master not in seen.secrets:
        return Condition(
            "Ready",
            False,
            "MasterKeyLost",
            f"Secret {master} is gone although cluster {wanted.known_uuid} exists. Restore it: "
            "servers know only this key, so none is made anew.",
        )
    kept = sorted(seen.local_volumes)
    if not build.spec.is_external and kept and master not in seen.secrets:
        # They are made after the key: whoever made them had one, and what they hold needs it.
        return Condition(
            "Ready",
            False,
            "MasterKeyLost",
            f"Secret {master} is not there, but PersistentVolume {kept[0]} with metadata of this "
            "cluster is. Restore the Secret. If that cluster is given up for good: delete its "
            f"PersistentVolumes ({build.namespace}-{build.name}-…) and the folders behind them.",
        )
    return None


def _secrets(wanted: ClusterWanted, seen: ClusterSeen) -> list[Action]:
    build = wanted.build
    if build.spec.is_external:
        return []
    found: list[Action] = []
    for component, content in (("master", "master"), ("tokens", "tokens")):
        name = build.child(component)
        if name not in seen.secrets:
            found.append(CreateSecret(name, content, labels(build, component)))
    return found


def admissions(build: Build, seen: ClusterSeen) -> list[Action]:
    """Tokens for nodes that are not registered yet, then the labels that start their pods.

    The label comes after the token is in the Secret: a pod that starts finds its file at once.
    """
    engine = seen.engine
    if isinstance(engine, Unanswered):
        return []
    found: list[Action] = []
    for role, secret, key, node, name, label in _admitted(build, seen):
        # A beacon speaks for the server of its node; managers list it under that.
        known = engine.node("server" if role == "beacon" else role, name)
        registered = known is not None and (role != "beacon" or known.beacon_registered)
        has_token = key in seen.secrets.get(secret, frozenset())
        if not registered and not has_token:
            found.append(AddJoinToken(secret, key, role, name))
        elif node.labels.get(label) != build.instance:
            found.append(LabelNode(node.name, label, build.instance))
    return [*found, *_former(build, seen, engine), *_used(build, seen, engine)]


def _former(build: Build, seen: ClusterSeen, engine: EngineView) -> list[Action]:
    """Labels that kubelet put for a cluster that was here before, and never takes away.

    It refuses a driver that says otherwise, so no volume could be used on such a node.
    """
    return [
        LabelNode(node.name, names.LABEL_TOPOLOGY, None)
        for node in sorted(seen.nodes, key=lambda n: n.name)
        if node.labels.get(names.LABEL_NODE_BLOCK) == build.instance
        and node.labels.get(names.LABEL_TOPOLOGY, engine.uuid) != engine.uuid
    ]


def _admitted(build: Build, seen: ClusterSeen) -> list[tuple[str, str, str, NodeView, str, str]]:
    rows: list[tuple[str, str, str, NodeView, str, str]] = []
    for node in sorted(seen.nodes, key=lambda n: n.name):
        if len(node.name) > names.NODE_NAME_CHARS_MAX or taken_by(build, node):
            continue
        if node.name in seen.storage_nodes and not build.spec.is_external:
            for role in ("server", "beacon") if build.platform.beacon_pods else ("server",):
                secret, key = build.child("join"), f"{role}.{node.name}"
                rows.append((role, secret, key, node, node.name, names.LABEL_NODE_SERVER))
        if node.labels.get("kubernetes.io/os", "linux") == "linux":
            secret, key = build.child("join-block"), f"block.{node.name}"
            client = names.client_name(node.name)
            rows.append(("client", secret, key, node, client, names.LABEL_NODE_BLOCK))
    return rows


def _used(build: Build, seen: ClusterSeen, engine: EngineView) -> list[Action]:
    found: list[Action] = []
    for component, role in (("join", "server"), ("join-block", "client")):
        keys = seen.secrets.get(build.child(component), frozenset())
        used = tuple(key for key in sorted(keys) if _spent(key, role, seen, engine))
        if used:
            found.append(DropJoinTokens(build.child(component), used))
    return found


def _spent(key: str, role: str, seen: ClusterSeen, engine: EngineView) -> bool:
    """Whether the process that the token was for has registered with it."""
    component, _, node = key.partition(".")
    if component == "beacon":
        server = engine.node("server", node)
        if server is not None and server.beacon_connected is not None:
            return server.beacon_connected
        return any(p.component == "beacon" and p.node == node and p.ready for p in seen.pods)
    name = names.client_name(node) if component == "block" else node
    return engine.node(role, name) is not None


def status(wanted: ClusterWanted, seen: ClusterSeen, ready: Condition | None = None) -> WriteStatus:
    """What to say."""
    build = wanted.build
    conditions = cluster_status.conditions(
        build, seen.engine, seen.workloads, seen.pods, seen.rollout
    )
    if ready is not None:
        conditions = (ready, *(c for c in conditions if c.type != ready.type))
    return WriteStatus("StorageCluster", build.name, conditions, fields(wanted, seen))


def fields(wanted: ClusterWanted, seen: ClusterSeen) -> Json:
    """Numbers and names of the status; what is not known is left out, not written as zero."""
    build, engine = wanted.build, seen.engine
    found: Json = {
        "endpoint": build.rest_urls[0] if build.rest_urls else None,
        "components": cluster_status.components(build, seen.workloads, seen.pods),
    }
    if wanted.known_uuid:
        found["clusterUUID"] = wanted.known_uuid
    if isinstance(engine, EngineView):
        servers = [n for n in engine.nodes if n.role == "server"]
        capacity = sum(d.capacity for d in engine.drives)
        used = sum(d.used or 0 for d in engine.drives)
        found |= {
            # Written once: who else answers later is not this cluster.
            "clusterUUID": wanted.known_uuid or engine.uuid,
            "health": {"severity": engine.health, "issues": list(engine.issues[:32])},
            "nodes": {"total": len(servers), "ready": sum(n.connected for n in servers)},
            "disks": {
                "total": len(engine.drives),
                "up": sum(d.state == "up" for d in engine.drives),
                "available": seen.available_disks,
            },
            "capacity": rounded_quantity(capacity),
            "used": rounded_quantity(used),
            "capacityBytes": capacity,
            "usedBytes": used,
        }
        if engine.volumes is not None:
            found["volumes"] = engine.volumes
    return {key: value for key, value in found.items() if value is not None}
