"""Facts of a Kubernetes, read from its API. What may not be read is None."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar

from drystone_cli.doctor.facts import ClusterFacts, KubeNode
from drystone_cli.kube import storage
from drystone_cli.kube.api import Json, Kube
from drystone_cli.kube.storage import StorageCluster
from drystone_common.errors import DrystoneError, NotFoundError

ENFORCE: Final = "pod-security.kubernetes.io/enforce"
DEFAULT_CLASS: Final = "storageclass.kubernetes.io/is-default-class"
CONTROLLER: Final = "snapshot-controller"

_T = TypeVar("_T")


def gather(
    kube: Kube, namespace: str, cluster: StorageCluster | None, ours: set[str]
) -> ClusterFacts:
    """Everything but what needs to be seen from a node. ``ours``: nodes with our processes."""
    there, enforce = _namespace(kube, namespace)
    definitions = _there(kube, "/apis/snapshot.storage.k8s.io/v1")
    nodes = _tried(lambda: list(_nodes(kube, ours))) or []
    return ClusterFacts(
        version=_tried(lambda: _version(kube)),
        namespace=namespace,
        namespace_there=there,
        enforce=enforce,
        crds=_there(kube, storage.GROUP),
        driver=_there(kube, "/apis/storage.k8s.io/v1/csidrivers/csi.drystone.io"),
        storage_cluster=cluster.name if cluster else "",
        default_classes=_tried(lambda: tuple(_defaults(kube))),
        snapshot_definitions=definitions,
        snapshot_controller=_tried(lambda: _controller(kube)) if definitions else None,
        nodes=tuple(nodes),
    )


def _tried(look: Callable[[], _T]) -> _T | None:
    try:
        return look()
    except DrystoneError:
        return None


def _there(kube: Kube, path: str) -> bool | None:
    try:
        kube.get(path)
    except NotFoundError:
        return False
    except DrystoneError:
        return None
    return True


def _version(kube: Kube) -> tuple[int, int] | None:
    found = kube.get("/version")
    numbers = [re.match(r"\d+", str(found.get(key, ""))) for key in ("major", "minor")]
    major, minor = (int(number[0]) if number else -1 for number in numbers)
    return (major, minor) if major >= 0 and minor >= 0 else None


def _namespace(kube: Kube, name: str) -> tuple[bool | None, str | None]:
    try:
        found = kube.get(f"/api/v1/namespaces/{name}")
    except NotFoundError:
        return False, None
    except DrystoneError:
        return None, None
    return True, str((found["metadata"].get("labels") or {}).get(ENFORCE) or "")


def _defaults(kube: Kube) -> Iterator[str]:
    for item in kube.items("/apis/storage.k8s.io/v1/storageclasses"):
        if (item["metadata"].get("annotations") or {}).get(DEFAULT_CLASS) == "true":
            yield str(item["metadata"]["name"])


def _controller(kube: Kube) -> bool:
    """Its Deployment has no fixed name or namespace, but its pods run a program of that name."""
    return any(CONTROLLER in _images(item) for item in kube.items("/apis/apps/v1/deployments"))


def _images(workload: Json) -> str:
    pod = ((workload.get("spec") or {}).get("template") or {}).get("spec") or {}
    return " ".join(str(c.get("image")) for c in pod.get("containers") or ())


def _nodes(kube: Kube, ours: set[str]) -> Iterator[KubeNode]:
    for item in kube.items("/api/v1/nodes"):
        status: dict[str, Any] = item.get("status") or {}
        info = status.get("nodeInfo") or {}
        ready = any(
            c.get("type") == "Ready" and c.get("status") == "True"
            for c in status.get("conditions") or ()
        )
        addresses = {a["type"]: str(a["address"]) for a in status.get("addresses") or ()}
        name = str(item["metadata"]["name"])
        yield KubeNode(
            name=name,
            ready=ready,
            address=addresses.get("InternalIP", ""),
            kernel=str(info.get("kernelVersion") or ""),
            kubelet=str(info.get("kubeletVersion") or ""),
            ours=name in ours,
        )
