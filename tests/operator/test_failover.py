"""Fail-over with the whole operator: a node is lost, its pods go elsewhere, it comes back."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.operator.conftest import Lab
from tests.operator.objects import NAMESPACE, custom, node
from tests.operator.test_slice import until_serving

AWAY = "2026-11-21T10:00:00Z"
TAINT = "node.kubernetes.io/out-of-service"


def put_pod(lab: Lab, name: str, on: str, claim: str, driver: str = "csi.drystone.io") -> None:
    """A pod of somebody's with a bound claim."""
    lab.kube.put(
        "persistentvolumes",
        {"metadata": {"name": f"pv-{claim}"}, "spec": {"csi": {"driver": driver}}},
    )
    place = {"name": claim, "namespace": "shop"}
    lab.kube.put(
        "persistentvolumeclaims", {"metadata": place, "spec": {"volumeName": f"pv-{claim}"}}
    )
    volume: dict[str, Any] = {"name": "data", "persistentVolumeClaim": {"claimName": claim}}
    lab.kube.put(
        "pods",
        {
            "metadata": {"name": name, "namespace": "shop"},
            "spec": {"nodeName": on, "volumes": [volume]},
        },
    )


def lose(lab: Lab, name: str) -> None:
    """Power off, as both sides see it."""
    old = lab.kube.get("nodes", name)
    assert old is not None
    new = node(name, ready="Unknown", since=AWAY)
    labels = {**new["metadata"]["labels"], **old["metadata"]["labels"]}
    lab.kube.put("nodes", {**new, "metadata": {"name": name, "labels": labels}})
    lab.manager.connect(name, connected=False)
    lab.manager.connect(f"block-{name}", connected=False)


def come_back(lab: Lab, name: str) -> None:
    old = lab.kube.get("nodes", name)
    assert old is not None
    condition = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-21T11:00:00Z"}
    lab.kube.change("nodes", name, "", {"status": {"conditions": [condition]}})
    lab.manager.connect(name, connected=True)
    lab.manager.connect(f"block-{name}", connected=True)


def tainted(lab: Lab, name: str) -> bool:
    taints = (lab.kube.get("nodes", name) or {})["spec"].get("taints", [])
    return any(t["key"] == TAINT for t in taints)


def fences(lab: Lab, name: str) -> int:
    return len(lab.manager.called("POST", f"/clients/block-{name}/fence"))


async def test_the_pods_of_a_lost_node_go_after_the_fence_and_the_taint(lab):
    async with lab.running():
        await until_serving(lab)
        put_pod(lab, "db-0", "a", "data-db-0")
        put_pod(lab, "other", "a", "theirs", driver="csi.other.io")
        put_pod(lab, "elsewhere", "b", "data-b")
        lose(lab, "a")
        await lab.until_condition("storagenodes", "a", "Suspected", "Fenced")
        assert fences(lab, "a") == 0
        lab.now = 60.0
        await lab.kube.until(lambda: lab.kube.get("pods", "db-0", "shop") is None)
        assert tainted(lab, "a")
        assert fences(lab, "a") == 1
        message = await lab.until_condition("storagenodes", "a", "Away", "Fenced")
        assert message == "The node is fenced and empty; it is waited for."
        come_back(lab, "a")
        await lab.kube.until(lambda: not tainted(lab, "a"))
        await lab.until_condition("storagenodes", "a", "Well", "Fenced")
    assert lab.kube.get("pods", "other", "shop") is not None
    assert lab.kube.get("pods", "elsewhere", "shop") is not None


async def test_without_a_proof_nothing_is_moved_however_long_it_takes(lab):
    lab.manager.fence_proves = False
    async with lab.running():
        await until_serving(lab)
        put_pod(lab, "db-0", "a", "data-db-0")
        lose(lab, "a")
        await lab.until_condition("storagenodes", "a", "Suspected", "Fenced")
        lab.now = 60.0
        await lab.kube.until(lambda: fences(lab, "a") > 3)
        assert not tainted(lab, "a")
        assert lab.kube.get("pods", "db-0", "shop") is not None
        lab.manager.fence_proves = True
        await lab.kube.until(lambda: tainted(lab, "a"))


async def test_a_node_that_only_kubernetes_lost_is_not_fenced(lab):
    async with lab.running():
        await until_serving(lab)
        put_pod(lab, "db-0", "a", "data-db-0")
        lose(lab, "a")
        lab.manager.connect("block-a", connected=True)
        await lab.until_condition("storagenodes", "a", "Suspected", "Fenced")
        lab.now = 600.0
        looks = len(lab.kube.requests)
        await lab.kube.until(lambda: len(lab.kube.requests) > looks + 20)
        assert fences(lab, "a") == 0
        assert not tainted(lab, "a")


async def test_a_taint_that_a_person_put_is_left_alone(lab):
    async with lab.running():
        await until_serving(lab)
        theirs = {"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"}
        lab.kube.change("nodes", "a", "", {"spec": {"taints": [theirs]}})
        looks = len(lab.kube.requests)
        await lab.kube.until(lambda: len(lab.kube.requests) > looks + 20)
        assert tainted(lab, "a")


async def test_an_operator_that_restarts_in_the_middle_goes_on(lab):
    async with lab.running():
        await until_serving(lab)
        put_pod(lab, "db-0", "a", "data-db-0")
        lose(lab, "a")
        await lab.until_condition("storagenodes", "a", "Suspected", "Fenced")
        lab.now = 60.0
        await lab.kube.until(lambda: tainted(lab, "a"))
    put_pod(lab, "late", "a", "data-late")
    async with lab.running():
        await asyncio.sleep(0)
        first = fences(lab, "a")
        await lab.until_condition("storagenodes", "a", "Suspected", "Fenced")
        lab.now = 120.0
        await lab.kube.until(lambda: lab.kube.get("pods", "late", "shop") is None)
        assert fences(lab, "a") == first + 1


async def test_a_node_in_maintenance_is_left_alone(lab):
    async with lab.running():
        await until_serving(lab)
        until = {"until": "2099-01-01T00:00:00Z", "reason": "new memory"}
        spec = {"nodeName": "a", "maintenance": until}
        lab.kube.change("storagenodes", "a", NAMESPACE, custom("StorageNode", "a", spec))
        await lab.until_condition("storagenodes", "a", "Maintenance")
        put_pod(lab, "db-0", "a", "data-db-0")
        lose(lab, "a")
        message = await lab.until_condition("storagenodes", "a", "Held", "Fenced")
        assert message == "The node is away for maintenance; its pods stay."
        lab.now = 60.0
        looks = len(lab.kube.requests)
        await lab.kube.until(lambda: len(lab.kube.requests) > looks + 20)
        assert fences(lab, "a") == 0
