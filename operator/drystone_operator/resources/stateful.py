"""What managers and etcd have in common: pods apart from each other, and a folder for each."""

from __future__ import annotations

from collections.abc import Sequence

from drystone_operator.resources.base import USER, Build, Json, labels, nobody, selector


def pod(build: Build, component: str, container: Json, volumes: Sequence[Json] = ()) -> Json:
    """The pod of a member; a folder comes by its claim."""
    found: Json = {
        "serviceAccountName": build.platform.node_account,
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 30,
        "securityContext": _identity(build, component),
        "affinity": apart(build, component),
        "containers": [container],
    }
    if volumes:
        found["volumes"] = list(volumes)
    if build.spec.placement.node_selector:
        found["nodeSelector"] = dict(build.spec.placement.node_selector)
    return found


def _identity(build: Build, component: str) -> Json:
    """Nobody, except where the data is a folder of a node: that is root's, for ever."""
    keeps = component == "etcd" or build.spec.is_sqlite
    if keeps and claim_shape(build, component)[1] == local_class(build):
        return {"runAsUser": 0, "runAsGroup": 0, "seccompProfile": {"type": "RuntimeDefault"}}
    return {**nobody(), "fsGroup": USER}


def claim(build: Build, component: str) -> Json:
    """A claim for the folder of a stateful process.

    It has no owner: deleting the StorageCluster must not take the metadata of its disks along.
    """
    size, storage_class = claim_shape(build, component)
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": "state", "labels": labels(build, component)},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": storage_class,
            "resources": {"requests": {"storage": size}},
        },
    }


def claim_shape(build: Build, component: str) -> tuple[str, str]:
    """Size and class of a claim; without a class, that of the local volumes we make."""
    metadata = build.spec.metadata
    managed = metadata.etcd.managed if metadata and metadata.etcd else None
    wanted = managed if component == "etcd" else build.spec.managers
    if wanted is None:
        return "2Gi", local_class(build)
    return str(wanted.size), wanted.storage_class_name or local_class(build)


def local_class(build: Build) -> str:
    """Class of volumes that are folders of nodes; no such object need exist."""
    return f"drystone-local-{build.name}"


def apart(build: Build, component: str) -> Json:
    """Never two on one node: the loss of a node must not be that of a majority."""
    term = {
        "labelSelector": {"matchLabels": selector(build, component)},
        "topologyKey": "kubernetes.io/hostname",
    }
    return {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
