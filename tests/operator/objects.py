"""Objects as people and Kubernetes make them."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

NAMESPACE = "drystone"


def node(name: str, *, ready: str = "True", since: str = "2026-11-21T00:00:00Z") -> Json:
    """A Node."""
    labels = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/zone": f"zone-{name}",
    }
    condition = {"type": "Ready", "status": ready, "lastTransitionTime": since}
    address = {"type": "InternalIP", "address": f"10.0.0.{ord(name[0])}"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": labels},
        "spec": {},
        "status": {"conditions": [condition], "addresses": [address]},
    }


def cluster(name: str = "c", **spec: Any) -> Json:
    """A StorageCluster; SQLite unless the spec says otherwise."""
    wanted: Json = {"metadata": {"type": "sqlite"}, **spec}
    return custom("StorageCluster", name, wanted)


def custom(kind: str, name: str, spec: Json) -> Json:
    """One of our objects."""
    return {
        "apiVersion": "drystone.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def device(name: str, state: str = "blank", **more: Any) -> Json:
    """A device as a manager lists it."""
    return {
        "id": name, "path": f"/dev/{name}", "size_bytes": 1 << 40, "class": "ssd", "serial": "",
        "wwn": "", "model": "", "state": state, "found": "", "drive": None, "wanted": None, **more,
    }  # fmt: skip
