"""StorageDisks: which are taken, and which are left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drystone_operator.models.disk import DiskState
from drystone_operator.plan import disks
from drystone_operator.plan.views import Device, EngineNode
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


def slow(**health):
    """A drive that is out because it was slow."""
    one = replace(drive(1, "n1", "down"), waits=True, **health)
    return engine("n1", drives=(one,))


def said(state: DiskState, found, **fields) -> str:
    view = replace(disk(state), generation=4, **fields)
    return str(disks.plan(view, (replace(OURS, wanted="up"),), found))


def test_a_disk_that_is_out_because_it_was_slow_says_how_far_it_is():
    assert "Ready=False Retesting: Drive 1 was slow" in said(DiskState.IN, slow(strikes=1))
    failed = said(DiskState.IN, slow(strikes=1, failed_tests=2, found="52.0 ms"))
    assert "RetestFailed: Drive 1 was slow and failed 2 tests, at last 52.0 ms" in failed
    ejected = said(DiskState.IN, slow(strikes=3, ejected=True))
    assert "Ejected: Drive 1 was slow or hung 3 times in a day" in ejected
    assert "strikes: 3" in ejected
    assert "retest drive" not in failed + ejected


def test_a_wish_for_a_test_is_carried_out_once_and_an_ejected_disk_forgiven_once():
    asked = said(DiskState.RETEST, slow(strikes=3, ejected=True))
    assert "retest drive 1" in asked
    assert "retestedGeneration: 4" in asked
    again = said(DiskState.RETEST, slow(strikes=3, ejected=True), retested=4)
    assert "retest drive" not in again
    assert "Ready=False Ejected" in again
    assert "retest drive 1" in said(DiskState.RETEST, slow(strikes=3, ejected=True), retested=3)


def test_a_test_is_no_cure_for_what_is_up_failed_or_no_drive_of_ours():
    up = engine("n1", drives=(drive(1, "n1"),))
    assert "Ready=True Up" in said(DiskState.RETEST, up)
    assert "retestedGeneration: 4" in said(DiskState.RETEST, up)
    failed = said(DiskState.RETEST, engine("n1", drives=(drive(1, "n1", "down"),)))
    assert "Ready=False Down" in failed
    assert "NothingToRetest" in said(DiskState.RETEST, engine("n1", drives=()))
    for text in (said(DiskState.RETEST, up), failed):
        assert "retest drive" not in text


def holding(groups: int, *, evacuating: bool = True):
    one = replace(drive(1, "n1"), evacuating=evacuating, held=groups)
    return engine("n1", drives=(one,))


@pytest.mark.parametrize("state", [DiskState.EVACUATE, DiskState.REMOVE])
def test_what_a_disk_holds_goes_to_others_before_it_may_go(state):
    begins = disks.plan(disk(state), (OURS,), holding(8, evacuating=False))
    assert [str(a) for a in begins.actions] == ["evacuate drive 1"]
    goes_on = disks.plan(disk(state), (OURS,), holding(3))
    assert goes_on.actions == ()
    assert goes_on.status.fields["state"] == "Evacuating"
    assert goes_on.status.fields["groupsLeft"] == 3
    done = disks.plan(disk(state), (OURS,), holding(0))
    if state is DiskState.REMOVE:
        assert [str(a) for a in done.actions] == ["give up device ata-X1 of n1"]
    else:
        assert done.actions == ()
        assert "Evacuated: Drive 1 holds nothing any more. Say Remove" in str(done)


def test_a_disk_that_holds_nothing_is_marked_before_it_counts_as_evacuated():
    plan = disks.plan(disk(DiskState.EVACUATE), (OURS,), holding(0, evacuating=False))
    assert [str(a) for a in plan.actions] == ["evacuate drive 1"]
    assert plan.status.fields["state"] == "Evacuating"


def test_in_stops_an_evacuation_that_the_object_wanted_and_not_one_by_a_command():
    was = replace(disk(), evacuates=True)
    assert [str(a) for a in disks.plan(was, (OURS,), holding(3)).actions] == ["keep drive 1"]
    by_hand = disks.plan(disk(), (OURS,), holding(3))
    assert by_hand.actions == ()
    assert "`drystone drive evacuate 1 --cancel` stops that" in str(by_hand)
    assert by_hand.status.fields["state"] == "Up"


def test_what_is_no_drive_of_ours_has_nothing_to_evacuate():
    for seen in (BLANK, FOREIGN):
        plan = disks.plan(disk(DiskState.EVACUATE), (seen,), engine("n1"))
        assert plan.actions == ()
        assert "NothingToEvacuate" in str(plan)


def test_a_refusal_says_so_and_a_drive_that_serves_goes_on():
    said = str(disks.refused(disk(DiskState.REMOVE), OURS, "no_room: nowhere to go", holding(8)))
    assert "Ready=True Refused: no_room: nowhere to go" in said
    assert "state: Up" in said
    assert "state: Refused" in str(disks.refused(disk(), BLANK, "no", engine("n1")))


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
    text = str(disks.plan(disk(DiskState.REMOVE), (), engine("n1")))
    assert "It was given up before: `kubectl delete dsd" in text


def test_a_disk_whose_server_does_not_answer_is_not_one_whose_node_was_removed():
    away = replace(engine("n1"), nodes=(EngineNode("n1", "server", connected=False),))
    assert "Ready=Unknown NodeDown" in str(disks.plan(disk(), None, away))
    text = str(disks.plan(disk(), None, engine()))
    assert "Ready=False NodeUnknown: The managers know no server of node n1." in text
    assert f"`kubectl delete dsd {disk().name}`" in text


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
