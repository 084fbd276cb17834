"""Volumes that are folders of nodes, for metadata where no StorageClass is named.

Each is pinned to a node and meant for one claim, so a pod of a StatefulSet comes back to its
folder for ever. They are made once and kept: what is in them outlives the StorageCluster.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from drystone_operator.models.cluster_parts import Toleration, TolerationOperator
from drystone_operator.plan.views import NodeView, Taint
from drystone_operator.resources.base import Build, labels
from drystone_operator.resources.stateful import claim_shape, local_class

Json = dict[str, Any]

RELEASED: Final = "Released"

PREFERENCE: Final = "PreferNoSchedule"
"""The one effect that keeps no pod away."""

HOSTNAME: Final = "kubernetes.io/hostname"


def local_volumes(
    build: Build, nodes: tuple[NodeView, ...], existing: Mapping[str, str]
) -> list[Json]:
    """The volumes that are missing, each on a node of its own as far as there are any."""
    made: list[Json] = []
    for component, count in wanted(build):
        taken = {existing[n] for n in volume_names(build, component, count) if n in existing}
        for ordinal in range(count):
            name = volume_name(build, component, ordinal)
            if name in existing:
                continue
            node = _choose(build, nodes, taken)
            if node is None:
                break  # no node left: the pods wait, and the next node is taken
            taken.add(node.name)
            made.append(_volume(build, component, ordinal, node))
    return made


def wanted(build: Build) -> tuple[tuple[str, int], ...]:
    """Components with folders on nodes, and how many each has."""
    found: list[tuple[str, int]] = []
    if build.etcd_managed and claim_shape(build, "etcd")[1] == local_class(build):
        found.append(("etcd", build.etcd_replicas))
    if build.spec.is_sqlite and claim_shape(build, "manager")[1] == local_class(build):
        found.append(("manager", 1))
    return tuple(found)


def volume_name(build: Build, component: str, ordinal: int) -> str:
    """Name of a volume; volumes have no namespace, so it is in the name."""
    return f"{build.namespace}-{build.name}-{component}-{ordinal}"


def volume_names(build: Build, component: str, count: int) -> tuple[str, ...]:
    """All of a component."""
    return tuple(volume_name(build, component, n) for n in range(count))


def to_readopt(build: Build, body: Json) -> bool:
    """Whether a volume of ours waits for a claim that is gone, and so for ever.

    A namespace that was deleted took the claim along. The claim that is made anew has the old
    one's name but not its identity, and must not find another, empty folder.
    """
    spec = body.get("spec") or {}
    claim, path = spec.get("claimRef") or {}, (spec.get("hostPath") or {}).get("path", "")
    return (
        (body.get("status") or {}).get("phase") == RELEASED
        and bool(claim.get("uid"))
        and claim.get("namespace") == build.namespace
        and str(path).startswith(build.state_dir(""))
    )


def _choose(build: Build, nodes: tuple[NodeView, ...], taken: set[str]) -> NodeView | None:
    """A ready node of a fault set that has none yet, else any ready one without."""
    free = [
        n for n in sorted(nodes, key=lambda n: n.name) if _fit(build, n) and n.name not in taken
    ]
    key = build.spec.fault_set_key
    used = {n.labels.get(key) for n in nodes if n.name in taken}
    apart = [n for n in free if n.labels.get(key) not in used]
    return next(iter(apart or free), None)


def _fit(build: Build, node: NodeView) -> bool:
    wanted_labels = {**build.spec.nodes.selector, **build.spec.placement.node_selector}
    matches = all(node.labels.get(key) == value for key, value in wanted_labels.items())
    bearable = all(t.effect == PREFERENCE or tolerated(build, t) for t in node.taints)
    return matches and bearable and node.ready is True and not node.unschedulable


def tolerated(build: Build, taint: Taint) -> bool:
    """Whether pods with the spec's tolerations may run, and stay, on a node with a taint.

    A volume is pinned for ever: one on a node that its pod never gets to would leave it Pending.
    """
    return any(_tolerates(t, taint) for t in build.spec.placement.tolerations)


def _tolerates(toleration: Toleration, taint: Taint) -> bool:
    exists = toleration.operator is TolerationOperator.EXISTS
    return (
        (toleration.key or taint.key) == taint.key
        and (exists or (toleration.value or "") == taint.value)
        and (toleration.effect is None or toleration.effect.value == taint.effect)
        # With a time the pod is thrown out again.
        and toleration.toleration_seconds is None
    )


def _volume(build: Build, component: str, ordinal: int, node: NodeView) -> Json:
    size, storage_class = claim_shape(build, component)
    claim = f"state-{build.child(component)}-{ordinal}"
    term = {"key": HOSTNAME, "operator": "In", "values": [node.hostname or node.name]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(build, component, ordinal),
            "labels": labels(build, component),
        },
        "spec": {
            "capacity": {"storage": size},
            "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": storage_class,
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": build.namespace,
                "name": claim,
            },
            "hostPath": {
                "path": build.state_dir(f"{component}-{ordinal}"),
                "type": "DirectoryOrCreate",
            },
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}},
        },
    }
