"""Fail-over with the whole operator: a node is lost, its pods go elsewhere, it comes back."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.operator.conftest import Lab
from tests.operator.fake_manager import CLUSTER
from tests.operator.objects import NAMESPACE, custom, node
from tests.operator.test_slice import until_serving

AWAY = "2026-11-21T10:00:00Z"
TAINT = "node.kubernetes.io/out-of-service"


def put_pod(lab: Lab, name: str, on: str, claim: str, driver: str = "csi.drystone.io") -> None:
    """A running pod of somebody's with a bound claim, whose volume is attached there."""
    csi = {"driver": driver, "volumeHandle": f"{CLUSTER}/{claim}"}
    lab.kube.put("persistentvolumes", {"metadata": {"name": f"pv-{claim}"}, "spec": {"csi": csi}})
    lab.manager.attached[claim] = [f"block-{on}"]
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
            "status": {"phase": "Running"},
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


async def until_silent(lab: Lab, name: str) -> None:
    """Until its silence is being counted: only from then on does time matter."""
    await lab.kube.until(
        lambda: (
            lab.condition("storagenodes", name, "Fenced")
            .get("message", "")
            .startswith("The node is silent")
        )
    )


def failover(lab: Lab, name: str) -> dict[str, Any]:
    status = (lab.kube.get("storagenodes", name, NAMESPACE) or {}).get("status") or {}
    return dict(status.get("failover") or {})


async def test_the_pods_of_a_lost_node_go_after_the_fence_and_the_taint(lab):
    async with lab.running():
        await until_serving(lab)
        put_pod(lab, "db-0", "a", "data-db-0")
        put_pod(lab, "other", "a", "theirs", driver="csi.other.io")
        put_pod(lab, "elsewhere", "b", "data-b")
        lose(lab, "a")
        await until_silent(lab, "a")
        assert fences(lab, "a") == 0
        lab.now = 60.0
        await lab.kube.until(lambda: lab.kube.get("pods", "db-0", "shop") is None)
        assert tainted(lab, "a")
        assert fences(lab, "a") == 1
        await lab.kube.until(lambda: failover(lab, "a").get("podsDeleted") == 1)
        assert failover(lab, "a")["since"] == AWAY
        assert failover(lab, "a")["fenced"] is True
        message = await lab.until_condition("storagenodes", "a", "Away", "Fenced")
        assert message == "The node is fenced and empty; it is waited for."
        come_back(lab, "a")
        await lab.kube.until(lambda: not tainted(lab, "a"))
        await lab.until_condition("storagenodes", "a", "Well", "Fenced")
        assert failover(lab, "a") == {}
    assert lab.kube.get("pods", "other", "shop") is not None
    assert lab.kube.get("pods", "elsewhere", "shop") is not None


async def test_without_a_proof_nothing_is_moved_however_long_it_takes(lab):
    lab.manager.fence_proves = False
    async with lab.running():
        await until_serving(lab)
        put_pod(lab, "db-0", "a", "data-db-0")
        lose(lab, "a")
        await until_silent(lab, "a")
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
        await until_silent(lab, "a")
        lab.now = 60.0
        await lab.kube.until(lambda: tainted(lab, "a"))
    put_pod(lab, "late", "a", "data-late")
    async with lab.running():
        await asyncio.sleep(0)
        first = fences(lab, "a")
        # What the one before wrote is still to be read, so nothing shows when this one began to
        # count: the clock goes on until it has.
        while lab.kube.get("pods", "late", "shop") is not None:
            lab.now += 60.0
            looks = len(lab.kube.requests)
            await lab.kube.until(lambda looks=looks: len(lab.kube.requests) > looks + 20)
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


NODE_A = ("PATCH", "/api/v1/nodes/a")


async def test_a_node_that_comes_back_after_the_fence_has_its_pods_restarted(lab):
    async with lab.running():
        await until_serving(lab)
        put_pod(lab, "db-0", "a", "data-db-0")
        put_pod(lab, "whole", "b", "data-b")
        lab.kube.refusing[NODE_A] = 500
        lose(lab, "a")
        await until_silent(lab, "a")
        lab.now = 60.0
        await lab.kube.until(lambda: fences(lab, "a") > 0)
        assert not tainted(lab, "a")
        assert lab.kube.get("pods", "db-0", "shop") is not None
        del lab.kube.refusing[NODE_A]
        come_back(lab, "a")
        await lab.kube.until(lambda: lab.kube.get("pods", "db-0", "shop") is None)
    assert not tainted(lab, "a")
    assert lab.kube.get("pods", "whole", "shop") is not None


async def test_an_operator_that_starts_finds_pods_whose_volumes_were_fenced(lab):
    async with lab.running():
        await until_serving(lab)
    put_pod(lab, "dead", "a", "data-dead")
    put_pod(lab, "alive", "a", "data-alive")
    put_pod(lab, "starting", "b", "data-starting")
    put_pod(lab, "foreign", "b", "data-foreign")
    lab.manager.attached |= {"data-dead": [], "data-starting": [], "data-foreign": []}
    lab.kube.change("pods", "starting", "shop", {"status": {"phase": "Pending"}})
    other = {"spec": {"csi": {"volumeHandle": "another-cluster/data-foreign"}}}
    lab.kube.change("persistentvolumes", "pv-data-foreign", "", other)
    async with lab.running():
        await lab.kube.until(lambda: lab.kube.get("pods", "dead", "shop") is None)
        looks = lab.manager.looks
        await lab.kube.until(lambda: lab.manager.looks > looks + 5)
    left = {body["metadata"]["name"] for body in lab.kube.all("pods", "shop")}
    assert left == {"alive", "starting", "foreign"}


async def test_one_pod_that_cannot_be_deleted_keeps_no_other_one(lab):
    async with lab.running():
        await until_serving(lab)
        for name in ("db-0", "db-1"):
            put_pod(lab, name, "a", f"data-{name}")
        place = ("DELETE", "/api/v1/namespaces/shop/pods/db-0")
        lab.kube.refusing[place] = 403
        lose(lab, "a")
        await until_silent(lab, "a")
        lab.now = 60.0
        await lab.kube.until(lambda: lab.kube.get("pods", "db-1", "shop") is None)
        assert lab.kube.get("pods", "db-0", "shop") is not None
        del lab.kube.refusing[place]
        await lab.kube.until(lambda: lab.kube.get("pods", "db-0", "shop") is None)


async def test_silence_counts_from_before_kubernetes_knows(lab):
    async with lab.running():
        await until_serving(lab)
        put_pod(lab, "db-0", "a", "data-db-0")
        lab.manager.connect("a", connected=False)
        lab.manager.connect("block-a", connected=False)
        lab.now = 5.0
        looks = lab.manager.looks
        await lab.kube.until(lambda: lab.manager.looks > looks + 3)
        lab.now = 50.0
        assert fences(lab, "a") == 0
        lose(lab, "a")
        await lab.kube.until(lambda: tainted(lab, "a"))


async def test_a_lost_node_that_a_person_tainted_keeps_that_taint_and_loses_its_pods(lab):
    async with lab.running():
        await until_serving(lab)
        put_pod(lab, "db-0", "a", "data-db-0")
        put_pod(lab, "done", "a", "data-done")
        lab.kube.change("pods", "done", "shop", {"status": {"phase": "Succeeded"}})
        theirs = {"key": TAINT, "value": "nodeshutdown", "effect": "NoExecute"}
        lab.kube.change("nodes", "a", "", {"spec": {"taints": [theirs]}})
        lose(lab, "a")
        lab.kube.change("nodes", "a", "", {"spec": {"taints": [theirs]}})
        await until_silent(lab, "a")
        lab.now = 60.0
        await lab.kube.until(lambda: lab.kube.get("pods", "db-0", "shop") is None)
        await lab.until_condition("storagenodes", "a", "Away", "Fenced")
    assert lab.kube.get("nodes", "a")["spec"]["taints"] == [theirs]
    assert lab.kube.get("pods", "done", "shop") is not None


async def test_a_node_that_comes_back_between_taint_and_deletion_is_cleaned_up(lab):
    place = ("DELETE", "/api/v1/namespaces/shop/pods/db-0")
    async with lab.running():
        await until_serving(lab)
        put_pod(lab, "db-0", "a", "data-db-0")
        lab.kube.refusing[place] = 500
        lose(lab, "a")
        await until_silent(lab, "a")
        lab.now = 60.0
        await lab.kube.until(lambda: tainted(lab, "a"))
    # Another operator finds a node that is ready, tainted, and has a pod with a dead device.
    come_back(lab, "a")
    async with lab.running():
        await lab.kube.until(lambda: not tainted(lab, "a"))
        assert lab.kube.get("pods", "db-0", "shop") is not None
        del lab.kube.refusing[place]
        await lab.kube.until(lambda: lab.kube.get("pods", "db-0", "shop") is None)
    assert fences(lab, "a") == 1
