"""The Node service over a fake host: file systems, mounts, and crashes between any two tools."""

# ruff: noqa: ASYNC240 - a test may look at files
from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    DataError,
    DeniedError,
    DrystoneError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from drystone_csi.model import RAW, Content, ContentState
from drystone_csi.proto import csi_pb2
from drystone_csi.status import status_of
from drystone_storaged.attach.command import Completed
from tests.csi.driver import MODE, block, mount
from tests.csi.fakes import GIB, Crash, FakeHost

FS_EXT4 = Content(ContentState.FS, "ext4")
DEVICE = "/dev/fake1"


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
async def test_a_new_volume_is_formatted_once_then_mounted_and_shown(driver, fs):
    volume = await driver.published(mount(fs))
    await driver.stage(volume, mount(fs))
    await driver.node_publish(volume, mount(fs))
    assert driver.targets == [driver.staging, driver.target]
    assert len(driver.host.ran(f"mkfs.{fs}")) == 1
    assert driver.record(volume).content == Content(ContentState.FS, fs)


async def test_xfs_is_mounted_with_nouuid_and_options_are_passed_on(driver):
    volume = await driver.published(mount("xfs", flags=["noatime"]))
    await driver.stage(volume, mount("xfs", flags=["noatime"]))
    assert "-o noatime,nouuid" in driver.host.ran("mount")[0]


async def test_every_call_may_be_repeated(driver):
    volume = await driver.published()
    for _ in range(2):
        await driver.stage(volume)
    for _ in range(2):
        await driver.node_publish(volume)
    assert len(driver.host.ran("mkfs.ext4")) == 1
    assert driver.targets == [driver.staging, driver.target]
    for _ in range(2):
        await driver.node_unpublish(volume)
    for _ in range(2):
        await driver.unstage(volume)
    assert driver.targets == []
    assert driver.block.attachments == {}
    assert not Path(driver.target).exists()


async def run_to_end(driver, volume, capability, steps):
    """Repeat the steps as a container orchestrator would, across crashes of the driver."""
    for step in steps:
        for _ in range(50):
            try:
                await step(volume, capability)
            except Crash:
                driver.restart()
                continue
            break
        else:
            raise AssertionError("never converged")


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
@pytest.mark.parametrize("crash_at", range(16))
async def test_a_crash_after_any_tool_converges_and_formats_only_what_nobody_used(
    driver, fs, crash_at
):
    capability = mount(fs)
    volume = await driver.published(capability)
    driver.host.crash_at = crash_at
    await run_to_end(driver, volume, capability, [driver.stage, driver.node_publish])
    assert driver.record(volume).content == Content(ContentState.FS, fs)
    assert driver.targets == [driver.staging, driver.target]
    formats = [i for i, line in enumerate(driver.host.log) if line.startswith("mkfs")]
    mounts = [i for i, line in enumerate(driver.host.log) if line.startswith("mount")]
    assert formats
    assert max(formats) < min(mounts)


async def test_data_that_is_there_is_never_formatted_over(driver):
    volume = await driver.published()
    driver.host.disks[DEVICE] = "crypto_LUKS"
    with pytest.raises(ConflictError, match="crypto_LUKS"):
        await driver.stage(volume)
    assert not driver.host.ran("mkfs.ext4")
    assert driver.record(volume).content.state is ContentState.NEVER


async def test_a_file_system_made_by_hand_is_taken_over_if_it_is_the_one_asked_for(driver):
    volume = await driver.published()
    driver.host.disks[DEVICE] = "ext4"
    await driver.stage(volume)
    assert not driver.host.ran("mkfs.ext4")
    assert driver.record(volume).content == FS_EXT4


async def test_a_blank_device_of_a_formatted_volume_is_an_alarm_not_a_format(driver):
    volume = await driver.published()
    record = driver.record(volume)
    await driver.manager.set_content(record.id, record.content, FS_EXT4)
    with pytest.raises(DataError, match="blank"):
        await driver.stage(volume)
    assert not driver.host.ran("mkfs.ext4")


@pytest.mark.parametrize("code", [1, 4, 8])
async def test_a_probe_that_fails_is_not_a_blank_device(driver, code):
    volume = await driver.published()
    driver.host.fails["blkid"] = Completed(code, "", "cannot read")
    with pytest.raises(DrystoneError):
        await driver.stage(volume)
    assert not driver.host.ran("mkfs.ext4")


async def test_a_format_that_was_cut_off_is_done_again_under_a_new_nonce(driver):
    volume = await driver.published()
    record = driver.record(volume)
    cut_off = Content(ContentState.FORMATTING, "ext4", "old")
    await driver.manager.set_content(record.id, record.content, cut_off)
    driver.host.disks[DEVICE] = "ext4"
    await driver.stage(volume)
    assert len(driver.host.ran("mkfs.ext4")) == 1
    assert driver.manager.calls[-2:] == [
        "content formatting->formatting",
        "content formatting->fs",
    ]


@pytest.mark.parametrize("found", ["ext4", "xfs", "crypto_LUKS", "table gpt"])
async def test_a_record_that_says_formatting_of_what_was_used_since_formats_nothing(driver, found):
    """It comes from an older copy of the metadata store."""
    volume = await driver.published()
    old = Content(ContentState.FORMATTING, "ext4", "old")
    record = driver.record(volume)
    await driver.manager.set_content(record.id, record.content, old)
    driver.host.disks[DEVICE] = found
    driver.host.used.add(DEVICE)
    with pytest.raises(ConflictError, match="was used") as caught:
        await driver.stage(volume)
    assert caught.value.code == "content_conflict"
    assert not driver.host.ran("mkfs.ext4")
    assert driver.record(volume).content == old
    assert driver.targets == []


@pytest.mark.parametrize("tool", ["dumpe2fs", "xfs_db"])
async def test_a_half_made_file_system_that_cannot_be_looked_at_is_made_again(driver, tool):
    volume = await driver.published()
    cut_off = Content(ContentState.FORMATTING, "ext4", "old")
    record = driver.record(volume)
    await driver.manager.set_content(record.id, record.content, cut_off)
    driver.host.disks[DEVICE] = "ext4" if tool == "dumpe2fs" else "xfs"
    whole = driver.host._tool

    def half(name, words):
        if name == tool and not driver.host.ran("mkfs.ext4"):
            return Completed(1, "", "bad magic number")
        return whole(name, words)

    driver.host._tool = half
    await driver.stage(volume)
    assert len(driver.host.ran("mkfs.ext4")) == 1


async def test_a_recovered_volume_is_raw_and_its_file_system_is_mounted_as_it_is(driver):
    volume = await driver.published()
    record = driver.record(volume)
    await driver.manager.set_content(record.id, record.content, RAW)
    with pytest.raises(DataError, match="blank"):
        await driver.stage(volume)
    driver.host.disks[DEVICE] = "ext4"
    driver.host.used.add(DEVICE)
    await driver.stage(volume)
    assert not driver.host.ran("mkfs.ext4")
    assert driver.targets == [driver.staging]


async def test_a_formatter_that_lost_the_race_does_not_mount(driver):
    volume = await driver.published()

    def overtaken(words):
        driver.host.disks[words[-1]] = "ext4"
        other = Content(ContentState.FORMATTING, "ext4", "other")
        driver.manager._change(driver.record(volume), content=other)

    driver.host._mkfs_ext4 = overtaken
    with pytest.raises(ConflictError):
        await driver.stage(volume)
    assert driver.targets == []


async def test_fsck_runs_before_a_mount_and_never_on_a_mounted_device(driver):
    volume = await driver.published()
    await driver.stage(volume)
    await driver.node_publish(volume)
    driver.host.table.pop(0)  # the staging mount was lost, the pod's is still there
    before = len(driver.host.ran("fsck.ext4"))
    assert before == 1
    await driver.stage(volume)
    assert len(driver.host.ran("fsck.ext4")) == before


async def test_a_file_system_beyond_automatic_repair_is_not_mounted(driver):
    volume = await driver.published()
    driver.host.fails["fsck.ext4"] = Completed(4, "UNEXPECTED INCONSISTENCY", "")
    with pytest.raises(DataError, match="by hand"):
        await driver.stage(volume)
    assert driver.targets == []


async def test_a_tiny_ext4_has_no_journal(driver):
    volume = await driver.published(size=8 << 20)
    await driver.stage(volume)
    assert "-O ^has_journal" in driver.host.ran("mkfs.ext4")[0]


async def test_mkfs_options_come_before_the_double_dash(driver):
    volume = await driver.published(parameters={"mkfsOptions": "-m 0"})
    await driver.stage(volume)
    assert driver.host.ran("mkfs.ext4")[0].endswith(f"-m 0 -- {DEVICE}")


async def test_a_raw_volume_is_a_device_file_and_is_never_formatted(driver):
    volume = await driver.published(block())
    await driver.stage(volume, block())
    await driver.node_publish(volume, block())
    await driver.node_publish(volume, block())
    assert Path(driver.target).is_file()
    assert driver.record(volume).content.state is ContentState.RAW
    with pytest.raises(ConflictError):
        await driver.unstage(volume)
    await driver.node_unpublish(volume)
    await driver.unstage(volume)
    assert driver.block.attachments == {}


async def test_a_raw_volume_that_was_used_is_not_formatted_as_a_file_system(driver):
    volume = await driver.published(block())
    await driver.stage(volume, block())
    with pytest.raises(DataError):
        await driver.stage(volume, mount())
    assert not driver.host.ran("mkfs.ext4")


async def test_a_writable_raw_device_is_not_published_read_only(driver):
    volume = await driver.published(block())
    await driver.stage(volume, block())
    with pytest.raises(InvalidArgumentError):
        await driver.node_publish(volume, block(), readonly=True)


async def test_a_read_only_publish_is_repaired_when_only_half_of_it_happened(driver):
    volume = await driver.published()
    await driver.stage(volume)
    driver.host.crash_at = len(["findmnt", "findmnt", "findmnt", "mount"]) - 1
    with pytest.raises(Crash):
        await driver.node_publish(volume, readonly=True)
    driver.restart()
    assert driver.host._at(driver.target)["options"] == "rw"
    await driver.node_publish(volume, readonly=True)
    assert driver.host._at(driver.target)["options"] == "ro"


async def test_a_read_only_attachment_is_mounted_read_only_and_not_checked(driver):
    volume = await driver.published()
    await driver.stage(volume)
    await driver.unstage(volume)
    record = driver.record(volume)
    await driver.manager.unpublish(record.id, "block-1")
    context = await driver.publish(volume.volume_id, readonly=True)
    checks = len(driver.host.ran("fsck.ext4"))
    await driver.stage(volume, context=context)
    assert "ro" in driver.host.table[-1]["options"].split(",")
    assert len(driver.host.ran("fsck.ext4")) == checks


async def test_a_single_writer_volume_is_published_once(driver):
    capability = mount(mode=MODE.SINGLE_NODE_SINGLE_WRITER)
    volume = await driver.published(capability)
    await driver.stage(volume, capability)
    await driver.node_publish(volume, capability)
    second = str(driver.folder / "second")
    with pytest.raises(ConflictError) as caught:
        await driver.node_publish(volume, capability, target=second)
    assert status_of(caught.value).name == "FAILED_PRECONDITION"


async def test_unstage_waits_for_every_publish_to_be_gone(driver):
    volume = await driver.published()
    await driver.stage(volume)
    await driver.node_publish(volume)
    with pytest.raises(ConflictError, match="still mounted"):
        await driver.unstage(volume)
    assert driver.block.attachments


async def test_publish_without_stage_and_at_a_foreign_target_is_refused(driver):
    volume = await driver.published()
    with pytest.raises(ConflictError):
        await driver.node_publish(volume)
    await driver.stage(volume)
    driver.host.table.append(
        {
            "target": driver.target,
            "source": "x",
            "fstype": "ext4",
            "options": "rw",
            "maj:min": "9:9",
        }
    )
    with pytest.raises(ConflictError, match="another mount"):
        await driver.node_publish(volume)


async def test_staging_with_another_file_system_already_exists(driver):
    volume = await driver.published()
    await driver.stage(volume)
    with pytest.raises(AlreadyExistsError):
        await driver.stage(volume, mount("xfs"))


async def test_files_in_an_unmounted_target_are_not_removed(driver):
    volume = await driver.published()
    await driver.stage(volume)
    Path(driver.target).mkdir(parents=True)
    (Path(driver.target) / "precious").write_text("x")
    with pytest.raises(ConflictError):
        await driver.node_unpublish(volume)
    assert (Path(driver.target) / "precious").exists()


async def test_a_second_call_for_a_volume_is_aborted_while_the_first_works(driver):
    volume = await driver.published()
    driver.host.hold = asyncio.Event()
    first = asyncio.create_task(driver.stage(volume))
    async with asyncio.timeout(10):
        await driver.host.held.wait()
    with pytest.raises(ConflictError) as caught:
        await driver.stage(volume)
    assert status_of(caught.value).name == "ABORTED"
    driver.host.hold.set()
    await first


async def expand(driver, volume, path, size):
    request = csi_pb2.NodeExpandVolumeRequest(
        volume_id=volume.volume_id,
        volume_path=path,
        capacity_range=csi_pb2.CapacityRange(required_bytes=size),
    )
    return (await driver.node.NodeExpandVolume(request, None)).capacity_bytes


async def test_device_and_file_system_grow_online(driver):
    volume = await driver.published(mount("xfs"))
    await driver.stage(volume, mount("xfs"))
    await driver.manager.resize_volume(driver.record(volume).id, 2 * GIB)
    assert await expand(driver, volume, driver.staging, 2 * GIB) == 2 * GIB
    assert driver.host.ran("xfs_growfs")[-1] == f"xfs_growfs -d {driver.staging}"


async def test_growing_ext4_without_the_privilege_says_what_is_missing(driver):
    volume = await driver.published()
    await driver.stage(volume)
    denied = "resize2fs: Permission denied to resize filesystem"
    driver.host.fails["resize2fs"] = Completed(1, "", denied)
    with pytest.raises(DeniedError) as caught:
        await expand(driver, volume, driver.staging, GIB)
    assert "CAP_SYS_RESOURCE" in str(caught.value)


async def test_ext4_that_is_smaller_than_its_device_grows_before_the_mount(driver):
    volume = await driver.published()
    await driver.stage(volume)
    await driver.unstage(volume)
    driver.host._blockdev = lambda words: f"{2 * GIB}\n"
    await driver.stage(volume)
    order = [line.split()[0] for line in driver.host.log]
    assert order.index("resize2fs") < len(order) - 1 - order[::-1].index("mount")


@pytest.mark.parametrize("path", ["relative", "/nowhere"])
async def test_stats_and_growth_of_what_is_not_there_are_not_found(driver, path):
    volume = await driver.published()
    request = csi_pb2.NodeGetVolumeStatsRequest(volume_id=volume.volume_id, volume_path=path)
    with pytest.raises(NotFoundError):
        await driver.node.NodeGetVolumeStats(request, None)
    with pytest.raises(NotFoundError):
        await expand(driver, volume, path, GIB)


@pytest.mark.parametrize("path", ["", "x", "/a/../b", "/a\0b"])
async def test_paths_of_a_stage_must_be_absolute_and_plain(driver, path):
    volume = await driver.published()
    request = csi_pb2.NodeStageVolumeRequest(
        volume_id=volume.volume_id, staging_target_path=path, volume_capability=mount()
    )
    with pytest.raises(InvalidArgumentError):
        await driver.node.NodeStageVolume(request, None)


async def test_the_node_is_known_by_the_name_of_its_block_daemon(driver):
    info = await driver.node.NodeGetInfo(csi_pb2.NodeGetInfoRequest(), None)
    assert info.node_id == "block-1"


async def test_a_block_daemon_that_starts_later_is_waited_for(driver, monkeypatch):
    answer, refused = driver.block.info, iter(range(2))

    async def info():
        if next(refused, None) is not None:
            raise UnavailableError("block daemon: nobody listens")
        return await answer()

    monkeypatch.setattr(driver.block, "info", info)
    found = await driver.node.NodeGetInfo(csi_pb2.NodeGetInfoRequest(), None)
    assert found.node_id == "block-1"


def test_the_fake_host_has_the_exit_codes_of_the_real_tools():
    assert FakeHost()._tool("blkid", ["--", "/dev/x"]).code == 2
