"""StorageDisks: which are taken, and which are left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drystone_operator.models.disk import DiskState
from drystone_operator.plan import disks
from drystone_operator.plan.views import (
    Device,
)
from tests.operator.wanted import SQLITE, build, drive, engine

BLANK = Device("ata-X1", "/dev/sda", 1 << 40, "ssd", "blank", serial="X1")
FOREIGN = replace(BLANK, state="foreign", found="an ext4 file system")
OURS = replace(BLANK, state="ours", drive="drive-1")


def disk(state: DiskState = DiskState.IN, device: str = "ata-X1") -> disks.StorageDiskView:
    return disks.StorageDiskView("d", "n1", device, state)


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (BLANK, "take device ata-X1 of n1"),
        (replace(BLANK, state="ours", drive="drive-9"), "take device ata-X1 of n1"),
        (FOREIGN, "Ready=False Refused: /dev/sda is left alone: it holds an ext4 file system."),
        (
            replace(BLANK, state="used_elsewhere", found="a drive of cluster 77"),
            "Ready=False Refused: /dev/sda is left alone: it holds a drive of cluster 77.",
        ),
        (
            replace(BLANK, state="in_use"),
            "Ready=False Refused: /dev/sda is left alone: it holds in_use.",
        ),
        (
            replace(BLANK, state="a word of a later version"),
            "Ready=False Refused: /dev/sda is left alone: it holds a word of a later version.",
        ),
        (
            replace(BLANK, wanted="refused", reason="drive_foreign: it has a partition table"),
            (
                "Ready=False Refused: The server of node n1 refuses /dev/sda: drive_foreign: "
                "it has a partition table"
            ),
        ),
        (OURS, "Ready=True Up: Drive 1 is up."),
    ],
)
def test_a_wanted_disk_is_taken_only_if_it_is_blank_or_ours(device, said):
    text = str(disks.plan(disk(), (device,), engine("n1")))
    assert said in [line.strip() for line in text.splitlines()]
    assert ("take device" in text) == said.startswith("take")


@pytest.mark.parametrize("state", [s for s in DiskState if s is not DiskState.IN])
def test_a_disk_that_is_not_wanted_in_is_never_taken(state):
    for device in (BLANK, FOREIGN, OURS):
        assert "take device" not in str(disks.plan(disk(state), (device,), engine("n1")))


@pytest.mark.parametrize("name", ["ata-X1", "/dev/sda", "X1"])
def test_a_disk_is_known_by_its_id_its_path_and_its_serial(name):
    assert "take device ata-X1" in str(disks.plan(disk(device=name), (BLANK,), engine("n1")))


def test_an_empty_serial_names_no_device():
    assert not disks.is_device("", replace(BLANK, serial="", wwn=""))


def test_two_objects_for_one_device_are_one_too_many():
    plan = disks.plan(disk(), (BLANK,), engine("n1"), duplicate_of="older")
    assert "Refused: StorageDisk older is the same device." in str(plan)
    assert plan.actions == ()


def test_a_disk_in_use_is_given_up_and_its_server_may_refuse():
    plan = disks.plan(disk(DiskState.REMOVE), (OURS,), engine("n1"))
    assert [str(a) for a in plan.actions] == ["give up device ata-X1 of n1"]


def test_a_disk_that_was_given_up_is_told_so_and_taken_again_when_it_is_wanted_in():
    down = engine("n1", drives=(drive(1, "n1", "down"),))
    plan = disks.plan(disk(DiskState.REMOVE), (OURS,), down)
    assert plan.actions == ()
    assert "Removed: It is not in use" in str(plan)
    assert "take device ata-X1" in str(disks.plan(disk(), (OURS,), down))
    pending = replace(OURS, wanted="opening")
    assert disks.plan(disk(), (pending,), down).actions == ()


def test_a_disk_that_was_asked_for_and_came_to_nothing_is_taken_back():
    pending = replace(BLANK, wanted="refused", reason="drive_foreign: it has a partition table")
    plan = disks.plan(disk(DiskState.REMOVE), (pending,), engine("n1"))
    assert [str(a) for a in plan.actions] == ["give up device ata-X1 of n1"]
    assert "Removing: The disk leaves as soon as no data needs it." in str(plan)
    gone = engine("n1", drives=(drive(1, "n1", "gone"),))
    for seen, removed in ((replace(OURS, wanted="refused"), False), (OURS, True)):
        plan = disks.plan(disk(DiskState.REMOVE), (seen,), gone)
        assert ("Removed" in str(plan)) == removed
        assert bool(plan.actions) != removed


def test_a_drive_that_is_down_and_not_wanted_is_free_again():
    down = engine("n1", drives=(drive(1, "n1", "down"),))
    text = str(disks.plan(disk(DiskState.AVAILABLE), (OURS,), down))
    assert "Available: It is a drive of this cluster. Set state: In to have it opened" in text
    waits = replace(OURS, wanted="opening")
    assert "InUse: It is drive 1" in str(disks.plan(disk(DiskState.AVAILABLE), (waits,), down))


def test_what_keeps_a_disk_out_says_how_it_could_come_in():
    text = str(disks.plan(disk(DiskState.AVAILABLE), (FOREIGN,), engine("n1")))
    assert "NotBlank: It holds an ext4 file system, so it would be refused. To wipe it" in text
    gone = engine("n1", drives=(drive(1, "n1", "gone"),))
    text = str(disks.plan(disk(), (replace(OURS, wanted="pending"),), gone))
    assert "Gone: Drive 1 is gone. Wiped (`blkdiscard -z /dev/sda`), it is taken as a new" in text
    text = str(disks.plan(disk(), (), engine("n1")))
    assert "Missing: Node n1 has no device ata-X1. If it is gone for good: docs/" in text


def test_a_device_that_nothing_tells_from_another_gets_no_object_and_is_not_taken():
    nameless = replace(BLANK, id="unnamed:sdq", path="/dev/sdq")
    assert disks.discovered(build(), {"n1": (nameless,)}, ()) == ()
    text = str(disks.plan(disk(device="/dev/sdq"), (nameless,), engine("n1")))
    assert "Refused: /dev/sdq has neither a serial number nor a WWN" in text
    assert "take device" not in text


@pytest.mark.parametrize("state", [DiskState.IN, DiskState.REMOVE, DiskState.AVAILABLE])
def test_a_drive_of_the_servers_own_settings_is_shown_and_left_alone(state):
    plan = disks.plan(disk(state), (replace(OURS, configured=True),), engine("n1"))
    assert plan.actions == ()
    assert "Ready=True InUse: /dev/sda is a drive of the server's own settings" in str(plan)


def test_found_devices_appear_as_available_once():
    found = {"n1": (BLANK, FOREIGN)}
    made = disks.discovered(build(), {"n1": (BLANK,)}, ())
    assert [a.body["spec"]["state"] for a in made] == ["Available"]
    assert disks.discovered(build(), found, (disk(device="X1"),)) == ()


def test_blank_disks_are_adopted_where_the_spec_says_so_and_others_never():
    adopt = build({**SQLITE, "disks": {"autoAdopt": "Blank"}})
    other = replace(FOREIGN, id="ata-X2", path="/dev/sdb", serial="X2")
    made = disks.discovered(adopt, {"n1": (BLANK, other)}, ())
    assert [a.body["spec"]["state"] for a in made] == ["In", "Available"]


@pytest.mark.parametrize(
    ("rules", "count"),
    [
        ({}, 1),
        ({"classes": ["nvme"]}, 0),
        ({"minSize": "2Ti"}, 0),
        ({"pathGlobs": ["/dev/sd*"]}, 1),
        ({"pathGlobs": ["/dev/nvme*"]}, 0),
    ],
)
def test_the_selector_picks_devices(rules, count):
    picked = build({**SQLITE, "disks": {"selector": rules}})
    assert len(disks.discovered(picked, {"n1": (BLANK,)}, ())) == count


def test_names_of_disks_tell_apart_what_kubernetes_cannot_spell():
    assert disks.object_name("n1", "ata-x1") == "n1-ata-x1"
    names = {disks.object_name("n1", d) for d in ("/var/a_b.img", "/var/a-b.img", "/VAR/a-b.img")}
    assert len(names) == 3
