"""What goes into a bundle from a Kubernetes: objects, logs, metrics. Never a Secret."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from drystone_cli.bundle.parts import Part, listed
from drystone_cli.kube import storage
from drystone_cli.kube.api import Json, Kube
from drystone_common.errors import DrystoneError

DRIVER: Final = "csi.drystone.io"
LOG_LINES_MAX: Final = 20_000  # of each container: some MiB, and hours of what we log
LOG_BYTES_MAX: Final = 16 << 20  # lines are some hundred bytes: so the lines are what ends a log
METRICS_BYTES_MAX: Final = 16 << 20  # a page of ours is below 1 MiB
LINES_CUT: Final = "[older lines are left out: these are the last {}]\n"
OWN: Final = ("drystone.io/cluster", "app.kubernetes.io/part-of", "app.kubernetes.io/name")

CUSTOM: Final = ("storageclusters", "storagenodes", "storagedisks", "storagepools")
NAMESPACED: Final = (
    ("pods", "/api/v1"),
    ("services", "/api/v1"),
    ("events", "/api/v1"),
    ("persistentvolumeclaims", "/api/v1"),
    ("daemonsets", "/apis/apps/v1"),
    ("statefulsets", "/apis/apps/v1"),
    ("deployments", "/apis/apps/v1"),
    ("controllerrevisions", "/apis/apps/v1"),
    ("poddisruptionbudgets", "/apis/policy/v1"),
    ("networkpolicies", "/apis/networking.k8s.io/v1"),
    ("leases", "/apis/coordination.k8s.io/v1"),
)
CLUSTER_WIDE: Final = (
    ("nodes", "/api/v1/nodes"),
    ("csinodes", "/apis/storage.k8s.io/v1/csinodes"),
    ("csidrivers", "/apis/storage.k8s.io/v1/csidrivers"),
    ("storageclasses", "/apis/storage.k8s.io/v1/storageclasses"),
)


def object_parts(kube: Kube, namespace: str) -> Iterator[Part]:
    """Objects, as YAML."""
    yield Part("kubernetes/version.json", lambda: kube.get("/version"))
    yield Part("kubernetes/namespace.yaml", lambda: kube.get(f"/api/v1/namespaces/{namespace}"))
    for name in CUSTOM:
        path = f"{storage.GROUP}/namespaces/{namespace}/{name}"
        yield Part(f"kubernetes/{name}.yaml", _list(kube, path))
    for name, group in NAMESPACED:
        path = f"{group}/namespaces/{namespace}/{name}"
        yield Part(f"kubernetes/{name}.yaml", _list(kube, path))
    yield Part(
        "kubernetes/configmaps.yaml",
        _list(kube, f"/api/v1/namespaces/{namespace}/configmaps", _ours),
    )
    for name, path in CLUSTER_WIDE:
        yield Part(f"kubernetes/{name}.yaml", _list(kube, path))
    yield Part(
        "kubernetes/persistentvolumes.yaml", _list(kube, "/api/v1/persistentvolumes", _volume)
    )
    attachments = "/apis/storage.k8s.io/v1/volumeattachments"
    yield Part("kubernetes/volumeattachments.yaml", _list(kube, attachments, _attachment))
    yield Part("kubernetes/claims.yaml", lambda: _claims(kube))


def log_parts(kube: Kube, pods: Sequence[Json], since_s: int) -> Iterator[Part]:
    """Logs of every container of our pods, those of the run before too."""
    for pod in pods:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/log"
        statuses = pod.get("status") or {}
        restarted = {
            s["name"]
            for key in ("containerStatuses", "initContainerStatuses")
            for s in statuses.get(key) or ()
            if s.get("restartCount")
        }
        for kind in ("initContainers", "containers"):
            for container in pod["spec"].get(kind) or ():
                name = container["name"]
                base = f"logs/{metadata['name']}/{name}"
                yield Part(f"{base}.log", _log(kube, path, name, sinceSeconds=str(since_s)))
                if name in restarted:
                    yield Part(f"{base}.previous.log", _log(kube, path, name, previous="true"))


def metric_parts(kube: Kube, pods: Sequence[Json]) -> Iterator[Part]:
    """The metrics page of each of our processes, through the API server."""
    for pod in pods:
        metadata = pod["metadata"]
        for container in pod["spec"].get("containers") or ():
            for port in container.get("ports") or ():
                if port.get("name") in ("metrics", "health"):
                    where = f"{metadata['name']}:{port['containerPort']}/proxy/metrics"
                    path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{where}"
                    name = f"metrics/{metadata['name']}.{container['name']}.txt"
                    yield Part(name, _text(kube, path))


def own_pods(kube: Kube, namespace: str) -> list[Json]:
    """Pods of a namespace that are of Drystone."""
    found = kube.items(f"/api/v1/namespaces/{namespace}/pods")
    return [pod for pod in found if _ours(pod)]


def _ours(item: Json) -> bool:
    labels = item["metadata"].get("labels") or {}
    return any(key in labels and (key == OWN[0] or labels[key] == "drystone") for key in OWN)


def _volume(item: Json) -> bool:
    spec = item.get("spec") or {}
    return (spec.get("csi") or {}).get("driver") == DRIVER or _ours(item)


def _attachment(item: Json) -> bool:
    return bool((item.get("spec") or {}).get("attacher") == DRIVER)


def _claims(kube: Kube) -> Json:
    """Claims of our volumes and classes, in every namespace."""
    classes = {
        c["metadata"]["name"]
        for c in kube.items("/apis/storage.k8s.io/v1/storageclasses")
        if c.get("provisioner") == DRIVER
    }
    volumes = {v["metadata"]["name"] for v in kube.items("/api/v1/persistentvolumes") if _volume(v)}

    def wanted(item: Json) -> bool:
        spec = item.get("spec") or {}
        return spec.get("volumeName") in volumes or spec.get("storageClassName") in classes

    return listed(bare(i) for i in kube.items("/api/v1/persistentvolumeclaims") if wanted(i))


def bare(item: Json) -> Json:
    """Without what only the API server needs."""
    metadata = {k: v for k, v in item["metadata"].items() if k != "managedFields"}
    return {**item, "metadata": metadata}


def _list(
    kube: Kube, path: str, wanted: Callable[[Json], bool] = lambda _: True
) -> Callable[[], Any]:
    return lambda: listed(bare(item) for item in kube.items(path) if wanted(item))


def _log(kube: Kube, path: str, container: str, **params: str) -> Callable[[], str]:
    given = {
        "container": container,
        "timestamps": "true",
        "tailLines": str(LOG_LINES_MAX),
        # One more than is kept: so it is seen that there was more.
        "limitBytes": str(LOG_BYTES_MAX + 1),
        **params,
    }

    def read() -> str:
        text = kube.text(path, LOG_BYTES_MAX, **given)
        # The API server does not say that it left lines out; as many as were asked for are a sign.
        whole = text.count("\n") < LOG_LINES_MAX
        return text if whole else LINES_CUT.format(LOG_LINES_MAX) + text

    return read


def _text(kube: Kube, path: str) -> Callable[[], str]:
    return lambda: kube.text(path, METRICS_BYTES_MAX)


def refused(error: DrystoneError) -> bool:
    """Whether a part is simply not there, as a log of a container that never ran."""
    return error.code in ("kubernetes_404", "kubernetes_400")
