"""The whole operator in this process: a StorageCluster becomes a cluster that serves."""

from __future__ import annotations

import base64
from typing import Any

from tests.operator.conftest import Lab
from tests.operator.objects import NAMESPACE, cluster, custom, device

WORKLOADS = {
    "daemonsets": {"c-beacon", "c-block", "c-csi-node", "c-server"},
    "statefulsets": {"c-manager"},
    "deployments": {"c-csi-controller"},
}


def names(lab: Lab, plural: str) -> set[str]:
    return {body["metadata"]["name"] for body in lab.kube.all(plural, NAMESPACE)}


async def until_serving(lab: Lab, **spec: Any) -> None:
    """From nothing to Ready, with the test in the place of kubelets and servers."""
    lab.kube.put("storageclusters", cluster(**spec))
    await lab.kube.until(lambda: all(names(lab, k) >= v for k, v in WORKLOADS.items()))
    lab.settle()
    await lab.kube.until(
        lambda: all("drystone.io/block" in n["metadata"]["labels"] for n in lab.kube.all("nodes"))
    )
    for name in ("a", "b", "c"):
        lab.manager.add_node(name)
        lab.manager.add_node(f"block-{name}", "client")
        lab.manager.add_drive(name, ord(name))
    await lab.until_condition("storageclusters", "c", "Serving")


async def test_a_storage_cluster_gets_all_its_objects_and_becomes_ready(lab):
    async with lab.running():
        await until_serving(lab)
        await lab.kube.until(lambda: "c-guard" in names(lab, "poddisruptionbudgets"))
    status = lab.kube.get("storageclusters", "c", NAMESPACE)["status"]
    assert status["nodes"] == {"total": 3, "ready": 3}
    assert status["capacity"] == "3Ti"
    assert status["observedGeneration"] == 1
    assert names(lab, "poddisruptionbudgets") == {
        "c-manager",
        "c-csi-controller",
        "c-guard",
    }
    assert names(lab, "services") == {"c-manager", "c-managers"}
    assert names(lab, "storagenodes") == {"a", "b", "c"}


async def test_secrets_are_made_once_and_never_again(lab):
    async with lab.running():
        await until_serving(lab)
    before = {b["metadata"]["name"]: b for b in lab.kube.all("secrets", NAMESPACE)}
    key = base64.b64decode(before["c-master"]["data"]["master.key"]).decode().strip()
    assert len(bytes.fromhex(key)) == 32
    assert set(before["c-tokens"]["data"]) == {"tokens", "admin", "operate", "read"}
    assert all("ownerReferences" not in b["metadata"] for b in before.values())
    async with lab.running():
        await lab.kube.until(lambda: lab.condition("storageclusters", "c") != {})
        first = len(lab.kube.requests)
        await lab.kube.until(lambda: len(lab.kube.requests) > first + 20)
    assert lab.kube.get("secrets", "c-master", NAMESPACE) == before["c-master"]
    assert lab.kube.get("secrets", "c-tokens", NAMESPACE) == before["c-tokens"]


async def test_a_lost_master_key_is_said_and_not_replaced(lab):
    async with lab.running():
        await until_serving(lab)
        lab.kube.remove("secrets", "c-master", NAMESPACE)
        message = await lab.until_condition("storageclusters", "c", "MasterKeyLost")
        assert "Restore it" in message
        assert lab.kube.get("secrets", "c-master", NAMESPACE) is None


async def test_an_emptied_store_is_said_and_neither_joined_nor_believed(lab):
    async with lab.running():
        await until_serving(lab)
        await lab.kube.until(
            lambda: bool(
                lab.kube.get("storageclusters", "c", NAMESPACE)["status"].get("clusterUUID")
            )
        )
        was = lab.manager.uuid
        lab.manager.uuid = "99999999-2222-3333-4444-555555555555"
        lab.manager.nodes.clear()
        lab.manager.drives.clear()
        message = await lab.until_condition("storageclusters", "c", "OtherCluster")
        assert f"but this is cluster {was}" in message
        lab.manager.calls.clear()
        lab.kube.remove("storageclusters", "c", NAMESPACE)
        first = len(lab.kube.requests)
        await lab.kube.until(lambda: len(lab.kube.requests) > first + 20)
    left = lab.kube.get("storageclusters", "c", NAMESPACE)
    assert left["status"]["clusterUUID"] == was
    assert left["metadata"]["finalizers"]
    assert lab.manager.calls == []


async def test_a_node_is_labelled_only_after_its_token_is_in_the_secret(lab):
    async with lab.running():
        lab.kube.put("storageclusters", cluster())
        label = "drystone.io/server"
        await lab.kube.until(
            lambda: all(label in n["metadata"]["labels"] for n in lab.kube.all("nodes"))
        )
    revisions: dict[tuple[str, str], int] = {}
    for revision, plural, _, body in lab.kube.history:
        if plural == "nodes" and label in body["metadata"]["labels"]:
            revisions.setdefault(("node", body["metadata"]["name"]), revision)
        if plural == "secrets" and body["metadata"]["name"] == "c-join":
            for token in body["data"]:
                revisions.setdefault(("token", token), revision)
    for name in ("a", "b", "c"):
        for component in ("server", "beacon"):
            assert revisions["token", f"{component}.{name}"] < revisions["node", name]


async def test_tokens_that_were_used_leave_the_secret(lab):
    async with lab.running():
        await until_serving(lab)
        secret = lambda name: set(lab.kube.get("secrets", name, NAMESPACE)["data"])  # noqa: E731
        await lab.kube.until(lambda: not secret("c-join-block"))
        await lab.kube.until(lambda: secret("c-join") == {"beacon.a", "beacon.b", "beacon.c"})


async def test_an_invalid_spec_is_said_on_the_object_and_changes_nothing(lab):
    async with lab.running():
        lab.kube.put("storageclusters", cluster(managers={"replicas": 3}))
        message = await lab.until_condition("storageclusters", "c", "SpecInvalid")
    assert "sqlite allows one manager only" in message
    assert names(lab, "statefulsets") == set()


async def test_the_younger_of_two_clusters_in_a_namespace_is_refused(lab):
    async with lab.running():
        lab.kube.put("storageclusters", cluster("c"))
        lab.kube.put("storageclusters", cluster("d"))
        message = await lab.until_condition("storageclusters", "d", "Duplicate")
    assert "StorageCluster c already" in message
    assert "d-server" not in names(lab, "daemonsets")


async def test_a_disk_is_touched_only_after_somebody_said_in(lab):
    lab.manager.devices["a"] = [device("disk1"), device("disk2", "foreign", found="ext4")]
    async with lab.running():
        await until_serving(lab)
        await lab.until_condition("storagedisks", "a-disk1", "Available")
        assert lab.manager.called("POST", "/nodes/a/drives") == []
        spec = {"nodeName": "a", "device": "disk1", "state": "In"}
        lab.kube.change("storagedisks", "a-disk1", NAMESPACE, {"spec": spec})
        await lab.until_condition("storagedisks", "a-disk1", "Up")
        (call,) = lab.manager.called("POST", "/nodes/a/drives")
    assert call == {"device": "disk1", "power_loss_protected": False}


async def test_a_disk_that_holds_data_is_refused_and_named(lab):
    found = device("disk2", "foreign", found="an ext4 file system")
    lab.manager.devices["a"] = [found]
    spec = {"nodeName": "a", "device": "disk2", "state": "In"}
    lab.kube.put("storagedisks", custom("StorageDisk", "mine", spec))
    async with lab.running():
        await until_serving(lab)
        message = await lab.until_condition("storagedisks", "mine", "Refused")
    assert message == "/dev/disk2 is left alone: it holds an ext4 file system."
    assert lab.manager.called("POST", "/nodes/a/drives") == []


async def test_a_disk_that_was_pulled_out_can_be_given_up(lab):
    wanted = {"device": "wwn:0x5", "path": None, "drive": None, "state": "pending", "reason": ""}
    lab.manager.wanted["a"] = [wanted]
    spec = {"nodeName": "a", "device": "wwn:0x5", "state": "In"}
    lab.kube.put("storagedisks", custom("StorageDisk", "pulled", spec))
    async with lab.running():
        await until_serving(lab)
        await lab.until_condition("storagedisks", "pulled", "Missing")
        lab.kube.change("storagedisks", "pulled", NAMESPACE, {"spec": {"state": "Remove"}})
        await lab.kube.until(lambda: lab.manager.wanted["a"] == [])
        await lab.until_condition("storagedisks", "pulled", "Missing")
    assert ("DELETE", "/nodes/a/drives/wwn:0x5", {}) in lab.manager.calls


async def test_a_pool_waits_for_disks_on_enough_nodes_and_is_then_made(lab):
    pool = custom("StoragePool", "fast", {"copies": 3})
    lab.kube.put("storagepools", pool)
    async with lab.running():
        lab.kube.put("storageclusters", cluster())
        lab.manager.add_node("a")
        lab.manager.add_drive("a", 1)
        message = await lab.until_condition("storagepools", "fast", "WaitingForDisks")
        assert message == "3 copies need disks in use in 3 fault sets; there are 1."
        assert lab.manager.pools == {}
        for number, name in ((2, "b"), (3, "c")):
            lab.manager.add_node(name)
            lab.manager.add_drive(name, number)
        await lab.until_condition("storagepools", "fast", "Serving")
    assert lab.manager.called("POST", "/pools") == [
        {"name": "fast", "copies": 3, "failure_domain": "auto"}
    ]


async def test_a_cluster_with_volumes_is_not_deleted_and_says_which(lab):
    lab.manager.volumes = ["db", "web"]
    async with lab.running():
        await until_serving(lab)
        lab.kube.remove("storageclusters", "c", NAMESPACE)
        message = await lab.until_condition("storageclusters", "c", "DeletionRefused")
        assert "db, web" in message
        lab.manager.volumes = []
        await lab.kube.until(lambda: lab.kube.get("storageclusters", "c", NAMESPACE) is None)
    labels = [n["metadata"]["labels"] for n in lab.kube.all("nodes")]
    assert not any("drystone.io/server" in found for found in labels)
    assert lab.kube.get("secrets", "c-master", NAMESPACE) is not None


async def test_a_namespace_in_deletion_is_not_held_up(lab):
    lab.manager.volumes = ["db"]
    async with lab.running():
        lab.kube.put("storagepools", custom("StoragePool", "fast", {"copies": 3}))
        await until_serving(lab)
        await lab.until_condition("storagepools", "fast", "Serving")
        stamp = {"metadata": {"deletionTimestamp": "2026-11-21T12:00:00Z", "finalizers": ["k"]}}
        lab.kube.change("namespaces", NAMESPACE, "", stamp)
        lab.kube.remove("storagepools", "fast", NAMESPACE)
        lab.kube.remove("storageclusters", "c", NAMESPACE)
        await lab.kube.until(lambda: lab.kube.get("storageclusters", "c", NAMESPACE) is None)
        assert lab.kube.get("storagepools", "fast", NAMESPACE) is None
    assert "fast" in lab.manager.pools


async def test_a_cluster_that_is_deleted_and_made_anew_takes_up_what_it_had(lab):
    async with lab.running():
        lab.kube.put("storagepools", custom("StoragePool", "fast", {"copies": 3}))
        await until_serving(lab)
        await lab.until_condition("storagepools", "fast", "Serving")
        before = lab.kube.get("secrets", "c-master", NAMESPACE)
        lab.kube.remove("storageclusters", "c", NAMESPACE)
        await lab.kube.until(lambda: lab.kube.get("storageclusters", "c", NAMESPACE) is None)
        # Nobody looks after it now, so nothing may hold it.
        pool = lab.kube.get("storagepools", "fast", NAMESPACE)
        assert pool["metadata"].get("finalizers", []) == []
        lab.manager.calls.clear()
        lab.kube.put("storageclusters", cluster())
        await lab.until_condition("storageclusters", "c", "Serving")
        await lab.kube.until(
            lambda: all(
                n["metadata"]["labels"].get("drystone.io/server") == "drystone.c"
                for n in lab.kube.all("nodes")
            )
        )
        await lab.kube.until(
            lambda: lab.kube.get("storagepools", "fast", NAMESPACE)["metadata"]["finalizers"] != []
        )
    assert lab.kube.get("secrets", "c-master", NAMESPACE) == before
    # Nodes that are registered need no token, and the pool is there.
    assert lab.manager.calls == []


async def test_an_event_is_posted_when_a_condition_turns_and_only_then(lab):
    async with lab.running():
        await until_serving(lab)
        lab.manager.up = False
        await lab.until_condition("storageclusters", "c", "ManagerUnreachable")
        first = len(lab.kube.requests)
        await lab.kube.until(lambda: len(lab.kube.requests) > first + 20)
    reasons = [
        (e["reason"], e["type"])
        for e in lab.kube.all("events", NAMESPACE)
        if e["involvedObject"]["kind"] == "StorageCluster"
    ]
    assert reasons.count(("ManagerUnreachable", "Warning")) <= 2
    assert ("Serving", "Normal") in reasons


async def test_a_watch_that_tells_nothing_new_writes_nothing(lab):
    async with lab.running():
        await until_serving(lab)
        first = len(lab.kube.requests)
        await lab.kube.until(lambda: len(lab.kube.requests) > first + 40)
        writes = [r for r in lab.kube.requests[first + 25 :] if r[0] != "GET"]
    assert writes == []
