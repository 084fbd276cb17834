"""Builds and views for tests of plans and resources."""

from __future__ import annotations

from typing import Any

from drystone_operator.models import StorageClusterSpec
from drystone_operator.plan.views import (
    EngineDrive,
    EngineNode,
    EngineView,
    NodeView,
    PgCounts,
    PodView,
)
from drystone_operator.resources.base import Build, Images, Platform

IMAGES = Images(
    "registry.local:5000/drystone:1.2", "etcd:1", "provisioner:1", "attacher:1", "resizer:1",
    "registrar:1", livenessprobe="livenessprobe:1",
)  # fmt: skip

ETCD = {"metadata": {"type": "etcd", "etcd": {"managed": {}}}}
SQLITE = {"metadata": {"type": "sqlite"}}
EXTERNAL = {
    "external": {
        "endpoints": ["https://storage.example:8460"],
        "controlEndpoints": ["storage.example:8461"],
        "tokenSecretRef": {"name": "their-tokens"},
        "caSecretRef": {"name": "their-ca"},
    }
}


def build(spec: dict[str, Any] | None = None, **platform: Any) -> Build:
    """A StorageCluster `c` in namespace `ns`."""
    parsed = StorageClusterSpec.model_validate(spec or SQLITE)
    return Build("c", "ns", "uid-c", parsed, Platform(IMAGES, **platform))


def node(name: str, *, ready: bool = True, **labels: Any) -> NodeView:
    """A Kubernetes node in a zone of its own."""
    found = {
        "kubernetes.io/hostname": name,
        "kubernetes.io/os": "linux",
        "topology.kubernetes.io/zone": f"zone-{name}",
        **labels,
    }
    return NodeView(name, ready, labels=found, hostname=name, addresses=("10.0.0.1",))


NODES = (node("n1"), node("n2"), node("n3"))
# Their fault sets: each its own, or all the same.
ZONES = {"n1": "z1", "n2": "z2", "n3": "z3"}
RACK = {"n1": "z1", "n2": "z1", "n3": "z1"}


def pod(name: str, on: str, component: str, template: str, *, ready: bool = True) -> PodView:
    """A pod of ours."""
    return PodView(name, "ns", f"uid-{name}", on, component, template, ready)


def drive(number: int, on: str, state: str = "up") -> EngineDrive:
    """A drive of a terabyte."""
    return EngineDrive(number, f"drive-{number}", on, state, capacity=1 << 40, used=1 << 30)


def engine(
    *nodes: str, pgs: PgCounts | None = None, drives: tuple[EngineDrive, ...] | None = None,
    **more: Any,
) -> EngineView:  # fmt: skip
    """A manager that knows storage nodes, each with its block daemon and one drive."""
    known = [EngineNode(n, "server", connected=True, version="1.2") for n in nodes]
    known += [EngineNode(f"block-{n}", "client", connected=True, version="1.2") for n in nodes]
    found = tuple(drive(i + 1, n) for i, n in enumerate(nodes)) if drives is None else drives
    values: dict[str, Any] = {
        "uuid": "u", "health": "ok", "issues": (), "nodes": tuple(known), "drives": found,
        "pgs": pgs or PgCounts(64, 64),
    }  # fmt: skip
    return EngineView(**{**values, **more})
