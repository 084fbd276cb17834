"""PodDisruptionBudgets of what Kubernetes itself may evict: managers, etcd, CSI controller."""

from __future__ import annotations

from drystone_operator.resources.base import Build, Json, selector, thing


def manager(build: Build) -> Json:
    """C-manager: one may go at a time; attached I/O does not notice, a fail-over would."""
    return _budget(build, "manager", {"maxUnavailable": 1})


def etcd(build: Build) -> Json:
    """C-etcd: never a majority."""
    return _budget(build, "etcd", {"maxUnavailable": max(1, (build.etcd_replicas - 1) // 2)})


def csi_controller(build: Build) -> Json:
    """C-csi-controller: one stays."""
    return _budget(build, "csi-controller", {"maxUnavailable": 1})


def _budget(build: Build, component: str, how_many: Json) -> Json:
    found = thing(build, "PodDisruptionBudget", "policy/v1", component)
    found["spec"] = {
        **how_many,
        "selector": {"matchLabels": selector(build, component)},
        # A pod that is not ready protects nothing, and a drain must not wait for it.
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return found
