"""Where the API server has each kind that we touch, and what we do with it.

``VERBS`` is the whole of what the operator asks of Kubernetes: the chart's roles are tested
against it, in both directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drystone_operator import names


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind's place. ``verbs``: what we do; ``status``: what we do with its subresource."""

    kind: str
    group: str
    version: str
    plural: str
    namespaced: bool
    verbs: tuple[str, ...]
    status: tuple[str, ...] = ()

    def path(self, namespace: str = "", name: str = "", sub: str = "") -> str:
        """The path of a collection, an object or a subresource."""
        base = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        if namespace:
            base += f"/namespaces/{namespace}"
        base += f"/{self.plural}"
        if name:
            base += f"/{name}"
        return f"{base}/{sub}" if sub else base


_OWN: Final = ("get", "list", "watch", "patch")
_CHILD: Final = ("get", "create", "patch")
_VOLUME: Final = ("get", "create", "patch")  # patched only to give a kept folder to its new claim
_POD: Final = ("get", "list", "watch", "create", "patch", "delete")
_WATCHED: Final = ("get", "list", "watch", "create", "patch")

RESOURCES: Final[tuple[Resource, ...]] = (
    # Ours. Apply is `patch`, and `create` where the object may not be there yet.
    Resource(
        "StorageCluster", names.GROUP, names.VERSION, "storageclusters", True, _OWN, ("patch",)
    ),
    Resource(
        "StorageNode",
        names.GROUP,
        names.VERSION,
        "storagenodes",
        True,
        (*_OWN, "create"),
        ("patch",),
    ),
    Resource(
        "StorageDisk",
        names.GROUP,
        names.VERSION,
        "storagedisks",
        True,
        (*_OWN, "create"),
        ("patch",),
    ),
    Resource(
        "StoragePool",
        names.GROUP,
        names.VERSION,
        "storagepools",
        True,
        (*_OWN, "create"),
        ("patch",),
    ),
    # Children, in the operator's namespaces only.
    Resource("ConfigMap", "", "v1", "configmaps", True, _CHILD),
    Resource("Secret", "", "v1", "secrets", True, _CHILD),
    Resource("Service", "", "v1", "services", True, _CHILD),
    Resource("DaemonSet", "apps", "v1", "daemonsets", True, _WATCHED),
    Resource("StatefulSet", "apps", "v1", "statefulsets", True, _WATCHED),
    Resource("Deployment", "apps", "v1", "deployments", True, _WATCHED),
    Resource("PodDisruptionBudget", "policy", "v1", "poddisruptionbudgets", True, _CHILD),
    Resource("Event", "", "v1", "events", True, ("create",)),
    # Pods: watched in the operator's namespaces, guards are made there; after a fence those of
    # one node, anywhere. Patched for the finalizer of guards.
    Resource("Pod", "", "v1", "pods", True, _POD),
    # Cluster-wide. Namespaces: the framework watches them; we ask whether one is being deleted.
    Resource("Namespace", "", "v1", "namespaces", False, ("get", "list", "watch")),
    Resource("Node", "", "v1", "nodes", False, ("get", "list", "watch", "patch")),
    Resource("PersistentVolume", "", "v1", "persistentvolumes", False, _VOLUME),
    Resource("PersistentVolumeClaim", "", "v1", "persistentvolumeclaims", True, ("get",)),
)

BY_KIND: Final = {resource.kind: resource for resource in RESOURCES}

CLUSTER_WIDE: Final[dict[str, tuple[str, ...]]] = {
    # What must be granted by a ClusterRole; everything else by a Role in each namespace.
    "namespaces": ("get", "list", "watch"),
    "nodes": ("get", "list", "watch", "patch"),
    "persistentvolumes": _VOLUME,
    "persistentvolumeclaims": ("get",),
    "pods": ("list", "delete"),
}


def verbs() -> dict[tuple[str, str], tuple[str, ...]]:
    """Every (group, resource or resource/subresource) with the verbs that the operator uses."""
    found: dict[tuple[str, str], tuple[str, ...]] = {}
    for resource in RESOURCES:
        found[resource.group, resource.plural] = resource.verbs
        if resource.status:
            found[resource.group, f"{resource.plural}/status"] = resource.status
    return found
