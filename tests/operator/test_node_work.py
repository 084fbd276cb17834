"""The whole operator: disks are evacuated, nodes have maintenance and are removed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from tests.operator.conftest import Lab
from tests.operator.objects import NAMESPACE, custom, device
from tests.operator.test_slice import until_serving


def drive_of(lab: Lab, number: int) -> dict[str, Any]:
    (found,) = (d for d in lab.manager.drives if d["id"] == number)
    return found


async def with_disk(lab: Lab, state: str, **spec: Any) -> int:
    """Node a has a disk that is one of its drives and holds data; the object says ``state``."""
    await until_serving(lab, **spec)
    number = ord("a")
    lab.manager.devices["a"] = [device("disk1", "ours", drive=f"drive-{number}")]
    drive_of(lab, number).update(held=8, evacuating=False)
    spec = {"nodeName": "a", "device": "disk1", "state": state}
    lab.kube.put("storagedisks", custom("StorageDisk", "a-disk1", spec))
    return number


def say(lab: Lab, state: str) -> None:
    lab.kube.change("storagedisks", "a-disk1", NAMESPACE, {"spec": {"state": state}})


async def test_a_disk_is_emptied_kept_after_all_emptied_again_and_given_up(lab):
    async with lab.running():
        number = await with_disk(lab, "In")
        await lab.until_condition("storagedisks", "a-disk1", "Up")
        say(lab, "Evacuate")
        message = await lab.until_condition("storagedisks", "a-disk1", "Evacuating")
        assert "8 placement groups are left" in message
        say(lab, "In")
        await lab.kube.until(lambda: drive_of(lab, number)["evacuating"] is False)
        await lab.until_condition("storagedisks", "a-disk1", "Up")
        say(lab, "Remove")
        await lab.until_condition("storagedisks", "a-disk1", "Evacuating")
        assert not [c for c in lab.manager.calls if c[0] == "DELETE" and "/drives/disk1" in c[1]]
        drive_of(lab, number).update(held=0, pgs={"in_sync": 0, "joining": 0, "out": 0})
        await lab.kube.until(lambda: ("DELETE", "/nodes/a/drives/disk1", {}) in lab.manager.calls)


async def test_a_disk_whose_data_has_nowhere_to_go_serves_on_and_says_so(lab):
    lab.manager.no_room = True
    async with lab.running():
        await with_disk(lab, "Evacuate")
        message = await lab.until_condition("storagedisks", "a-disk1", "Refused")
    assert "what it holds can go nowhere" in message
    assert lab.condition("storagedisks", "a-disk1")["status"] == "True"


async def test_an_ejected_disk_is_forgiven_tested_and_used_when_a_person_says_so(lab):
    lab.manager.passes = False
    async with lab.running():
        number = await with_disk(lab, "In")
        strikes = [{"at_s": 1, "reason": "slow"}] * 3
        out = {"state": "down", "strikes": strikes, "ejected": True}
        drive_of(lab, number).update(out, retest={"tries": 0, "last": None})
        await lab.until_condition("storagedisks", "a-disk1", "Ejected")
        assert lab.kube.get("storagedisks", "a-disk1", NAMESPACE)["status"]["strikes"] == 3
        say(lab, "Retest")
        message = await lab.until_condition("storagedisks", "a-disk1", "RetestFailed")
        assert "52.0 ms" in message
        drive_of(lab, number).update(state="up", retest=None)
        await lab.until_condition("storagedisks", "a-disk1", "Up")
        assert len(lab.manager.called("POST", f"/drives/{number}/retest")) == 1


def soon() -> dict[str, str]:
    until = datetime.now(UTC) + timedelta(hours=1)
    return {"until": until.isoformat(), "reason": "new fans"}


async def test_maintenance_reaches_the_managers_and_is_taken_back_with_the_object(lab):
    async with lab.running():
        await until_serving(lab)
        lab.kube.change("storagenodes", "a", NAMESPACE, {"spec": {"maintenance": soon()}})
        await lab.until_condition("storagenodes", "a", "Granted", "Maintenance")
        (call,) = lab.manager.called("POST", "/nodes/a/maintenance")
        assert call["reason"] == "new fans (StorageNode)"
        lab.kube.change("storagenodes", "a", NAMESPACE, {"spec": {"maintenance": None}})
        await lab.until_condition("storagenodes", "a", "None", "Maintenance")
        assert lab.manager.called("DELETE", "/nodes/a/maintenance") == [{}]


async def test_an_unsafe_maintenance_says_why(lab):
    lab.manager.unsafe = True
    async with lab.running():
        await until_serving(lab)
        lab.kube.change("storagenodes", "a", NAMESPACE, {"spec": {"maintenance": soon()}})
        message = await lab.until_condition("storagenodes", "a", "Unsafe", "Maintenance")
    assert "only copy there" in message


async def test_a_node_that_is_deleted_is_emptied_stopped_and_forgotten_before_its_object_goes(lab):
    for name in ("a", "b", "c"):
        lab.kube.change("nodes", name, "", {"metadata": {"labels": {"disks": "yes"}}})
    async with lab.running():
        number = await with_disk(lab, "In", nodes={"selector": {"disks": "yes"}})
        lab.kube.change("storagenodes", "a", NAMESPACE, {"spec": {"removalPolicy": "Evacuate"}})
        await lab.kube.until(lambda: held(lab))
        stamp = {"metadata": {"deletionTimestamp": "2026-11-22T00:00:00Z"}}
        lab.kube.change("storagenodes", "a", NAMESPACE, stamp)
        await lab.until_condition("storagenodes", "a", "StillSelected", "Removing")
        assert drive_of(lab, number)["evacuating"] is False
        lab.kube.change("nodes", "a", "", {"metadata": {"labels": {"disks": None}}})
        await lab.until_condition("storagenodes", "a", "Evacuating", "Removing")
        await lab.kube.until(lambda: drive_of(lab, number)["evacuating"] is True)
        drive_of(lab, number).update(held=0, pgs={"in_sync": 0, "joining": 0, "out": 0})
        await lab.kube.until(lambda: ("DELETE", "/nodes/a/drives/disk1", {}) in lab.manager.calls)
        drive_of(lab, number)["state"] = "down"
        await lab.until_condition("storagenodes", "a", "Stopping", "Removing")
        label = "drystone.io/server"
        await lab.kube.until(
            lambda: label not in lab.kube.get("nodes", "a", "")["metadata"]["labels"]
        )
        assert ("DELETE", "/nodes/a", {}) not in lab.manager.calls
        lab.manager.connect("a", connected=False)
        await lab.kube.until(lambda: ("DELETE", "/nodes/a", {}) in lab.manager.calls)
        await lab.kube.until(lambda: not held(lab))


def held(lab: Lab) -> bool:
    found = lab.kube.get("storagenodes", "a", NAMESPACE) or {"metadata": {}}
    return "drystone.io/operator" in (found["metadata"].get("finalizers") or [])
