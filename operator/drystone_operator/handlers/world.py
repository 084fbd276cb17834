"""Everything that is watched, by kind; filled by kopf's indexes, read at each look."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from drystone_operator import names
from drystone_operator.plan.views import NodeView, PodView, Workload

Json = dict[str, Any]

OWN_KINDS = ("StorageCluster", "StorageNode", "StorageDisk", "StoragePool")
WORKLOADS = ("DaemonSet", "StatefulSet", "Deployment")


@dataclass(frozen=True, slots=True)
class World:
    """One consistent enough look: each kind as its watch had it last."""

    objects: Mapping[str, tuple[Json, ...]]
    nodes: tuple[NodeView, ...]
    pods: tuple[PodView, ...]
    workloads: tuple[tuple[str, Workload], ...]
    """With the namespace of each."""

    def of(self, kind: str, namespace: str) -> tuple[Json, ...]:
        """Our objects of a kind in a namespace, by name."""
        found = [o for o in self.objects.get(kind, ()) if o["metadata"]["namespace"] == namespace]
        return tuple(sorted(found, key=lambda o: str(o["metadata"]["name"])))

    def find(self, kind: str, namespace: str, name: str) -> Json | None:
        """One of our objects."""
        return next((o for o in self.of(kind, namespace) if o["metadata"]["name"] == name), None)

    def known_uuid(self, namespace: str, cluster: str) -> str:
        """The id of a StorageCluster, once it was told; it never changes."""
        found = self.find("StorageCluster", namespace, cluster) or {}
        return str((found.get("status") or {}).get("clusterUUID") or "")

    def pods_of(self, namespace: str, cluster: str) -> tuple[PodView, ...]:
        """Pods of a StorageCluster."""
        return tuple(
            p
            for p in self.pods
            if p.namespace == namespace and p.labels.get(names.LABEL_CLUSTER) == cluster
        )

    def workloads_of(self, namespace: str, cluster: str) -> tuple[Workload, ...]:
        """Workloads of a StorageCluster: their names begin with its own."""
        found = [
            w
            for ns, w in self.workloads
            if ns == namespace and w.name == f"{cluster}-{w.component}"
        ]
        return tuple(sorted(found, key=lambda w: (w.component, w.kind)))


Index = Mapping[Any, Iterable[Any]]
"""As kopf keeps one: for each key the values of the objects that gave it."""


class Watched:
    """The indexes behind a World, by the name of each."""

    def __init__(self, indexes: Callable[[], Mapping[str, Index]]) -> None:
        self._indexes = indexes

    def world(self) -> World:
        """The state of every watch now."""
        indexes = self._indexes()
        return World(
            objects={kind: tuple(_values(indexes[kind])) for kind in OWN_KINDS},
            nodes=tuple(_values(indexes["Node"])),
            pods=tuple(_values(indexes["Pod"])),
            workloads=tuple(value for kind in WORKLOADS for value in _values(indexes[kind])),
        )

    def find(self, kind: str, namespace: str, name: str) -> Json | None:
        """One of our objects, for the writer of status."""
        found = self._indexes()[kind].get((namespace, name), ())
        return next(iter(found), None)


def _values(index: Index) -> list[Any]:
    return [value for key in list(index) for value in index[key]]
