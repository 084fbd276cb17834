"""Which disks are listed, by which id, and who uses them."""

from __future__ import annotations

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drystone_common.errors import DataError
from drystone_storaged.attach.command import SystemRunner
from drystone_storaged.server.lsblk import ID_MAX, NAMELESS, list_disks, parse
from tests.storaged.fake_devices import disk, lsblk


@pytest.fixture
def sys_block(tmp_path):
    folder = tmp_path / "block"
    folder.mkdir()
    return folder


def listed(sys_block, *disks):
    return parse(lsblk(*disks), sys_block=sys_block)


def fact(sys_block, name: str, value: str) -> None:
    file = sys_block / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(value + "\n")


def test_a_disk_is_known_by_its_wwn_however_that_is_spelled(sys_block):
    spellings = ("0x5000C500AB", "naa.5000c500ab", "5000c500ab")
    ids = {listed(sys_block, disk("sda", wwn=wwn))[0].id for wwn in spellings}
    assert ids == {"wwn:5000c500ab"}


def test_what_sysfs_says_comes_first_so_that_udev_does_not_change_an_id(sys_block):
    fact(sys_block, "sda/device/wwid", "naa.5000c500ab")
    (found,) = listed(sys_block, disk("sda", wwn="0x5002538d"))
    assert found.id == "wwn:5000c500ab"


def test_without_a_wwn_a_disk_is_known_by_model_and_serial(sys_block):
    (found,) = listed(sys_block, disk("sda", model="QX 500", serial="A 1"))
    assert found.id == "serial:QX_500-A_1"


@pytest.mark.parametrize("serial", ["", None, "0000000000", "none", " ", "Unknown", 5, ["x"]])
def test_a_disk_with_nothing_of_its_own_is_unnamed(sys_block, serial):
    (found,) = listed(sys_block, disk("sda", serial=serial))
    assert found.id == f"{NAMELESS}/dev/sda"


def test_a_virtual_disk_without_a_serial_is_known_by_its_slot(sys_block, tmp_path):
    real = tmp_path / "devices/pci0000:00/0000:00:05.0/virtio3/block/vdb"
    real.mkdir(parents=True)
    (sys_block / "vdb").symlink_to(real)
    (found,) = listed(sys_block, disk("vdb", serial=None, model=None))
    assert found.id == "pci:0000:00:05.0"


@pytest.mark.parametrize(
    ("more", "kind"),
    [
        ({"name": "nvme0n1", "rota": False}, "nvme"),
        ({"name": "sda", "tran": "nvme"}, "nvme"),
        ({"name": "sda", "rota": True}, "hdd"),
        ({"name": "sda", "rota": "1"}, "hdd"),
        ({"name": "sda", "rota": "0"}, "ssd"),
        ({"name": "sda", "rota": None}, "ssd"),
    ],
)
def test_the_class_of_a_disk(sys_block, more, kind):
    name = more.pop("name")
    assert listed(sys_block, disk(name, **more))[0].device_class == kind


@pytest.mark.parametrize(
    "no_drive",
    [
        disk("loop0", type="loop"), disk("nbd0"), disk("zram0"), disk("ram1"), disk("rbd0"),
        disk("ublkb0"), disk("drbd1"), disk("sr0", type="rom"), disk("sda1", type="part"),
        disk("dm-0", type="lvm"), disk("md0", type="raid1"), disk("sda", ro=True),
        disk("sda", ro="1"), disk("sdb", rm=True), disk("sdc", size=0), disk("sdd", size=None),
        disk("sde", size="many"), disk("sdf", size=2**70), disk("sdg", path="../etc"),
        disk("sdh", path=None), disk("sdi", size=-5),
    ],
    ids=lambda d: f"{d['name']}-{d['type']}",
)  # fmt: skip
def test_what_can_be_no_drive_is_not_listed(sys_block, no_drive):
    assert listed(sys_block, no_drive) == []


PART = {"name": "sda1", "path": "/dev/sda1", "type": "part", "mountpoints": [None]}


@pytest.mark.parametrize(
    ("more", "use"),
    [
        ({"mountpoints": ["/data"]}, "mounted at /data (/dev/sda)"),
        ({"mountpoints": ["[SWAP]"]}, "swap (/dev/sda)"),
        ({"children": [PART | {"mountpoints": [None, "/"]}]}, "mounted at / (/dev/sda1)"),
        ({"children": [PART | {"mountpoint": "/old", "mountpoints": None}]},
         "mounted at /old (/dev/sda1)"),
        ({"children": [{"name": "vg-x", "type": "lvm"}]}, "used by vg-x (lvm)"),
        ({"children": [PART | {"children": [{"name": "md0", "type": "raid1"}]}]},
         "used by md0 (raid1)"),
        ({}, ""),
    ],
)  # fmt: skip
def test_who_uses_a_disk(sys_block, more, use):
    assert listed(sys_block, disk("sda", **more))[0].use == use


def test_partitions_are_something_that_a_disk_holds(sys_block):
    found = listed(sys_block, disk("sda"), disk("sdb", children=[PART]))
    assert [d.holds for d in found] == ["", "partitions"]


def test_two_disks_of_one_identity_are_not_used_before_somebody_looked(sys_block):
    found = listed(sys_block, disk("sda", wwn="0x5"), disk("sdb", wwn="0x5"), disk("sdc"))
    assert [d.id for d in found] == [
        f"{NAMELESS}/dev/sda",
        f"{NAMELESS}/dev/sdb",
        "serial:QX500-S-sdc",
    ]
    assert "/dev/sdb has the same identity wwn:5" in found[0].use
    assert not found[2].use


def test_a_multipath_device_stands_for_its_paths(sys_block):
    fact(sys_block, "dm-3/dm/uuid", "mpath-3600a0b80")
    whole = disk("mpatha", kname="dm-3", path="/dev/mapper/mpatha", type="mpath", serial=None)
    paths = [disk(n, wwn="0x600a0b80", children=[whole]) for n in ("sda", "sdb")]
    (found,) = listed(sys_block, *paths)
    assert (found.id, found.path, found.use) == ("wwn:600a0b80", "/dev/mapper/mpatha", "")


@pytest.mark.parametrize("output", ["{", "[]", '{"blockdevices": 5}', "null", "[" * 100_000, "{}"])
def test_an_answer_that_is_none_is_an_error_and_not_an_empty_machine(output):
    with pytest.raises(DataError):
        parse(output)


def test_no_disk_at_all_is_an_empty_list(sys_block):
    assert parse("", sys_block=sys_block) == []
    assert listed(sys_block) == []


def test_entries_without_sense_are_left_out_and_the_others_stay(sys_block):
    deep: dict = {}
    for _ in range(100):
        deep = {"type": "part", "children": [deep]}
    disks = [disk("sda", children=[deep]), disk("sdb", mountpoints=[5, {}])]
    output: dict = {
        "blockdevices": [5, None, {}, {"type": "disk"}, {"type": ["disk"]}, [[]], *disks]
    }
    assert [d.name for d in parse(json.dumps(output), sys_block=sys_block)] == ["sda", "sdb"]


WORD = st.text(max_size=8)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | WORD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORD, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*sorted(disk("x")), "children"]), JSON))
def test_whatever_firmware_says_ids_stay_plain_and_short(changes):
    for found in parse(lsblk(disk("sda") | changes, disk("sdb", serial="é\n" * 5000))):
        assert found.id.isascii()
        assert found.id.isprintable()
        assert " " not in found.id
        assert len(found.id) <= ID_MAX
        assert 0 < found.size < 2**64


@pytest.mark.skipif(not shutil.which("lsblk"), reason="lsblk is not installed")
async def test_the_lsblk_of_this_machine_knows_these_columns():
    for found in await list_disks(SystemRunner()):
        assert found.path.startswith("/dev/")
        assert found.size > 0
