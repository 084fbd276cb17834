"""The node service for real: FUSE attacher, loop, mkfs, mount, growth, and servers that die."""

# ruff: noqa: ASYNC221, ASYNC230, ASYNC240 - a test may wait for tools and files
from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from drystone_common.errors import ConflictError, DeniedError
from drystone_csi.contents import Contents
from drystone_csi.devices import Devices
from drystone_csi.model import Content, ContentState
from drystone_csi.mounts import Mounts
from drystone_csi.node import NodeService
from drystone_csi.node_volumes import NodeVolumes
from drystone_csi.proto import csi_pb2
from drystone_storaged.attach.command import SystemRunner
from drystone_storaged.attach.fuse_process import find_program
from tests.csi.attacher_block import AttacherBlock, unmount_below
from tests.csi.driver import Driver, block, mount
from tests.csi.fakes import GIB

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and loop devices"),
    pytest.mark.skipif(find_program() is None, reason="drystone-fuse is not built"),
    pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is not installed"),
    pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="no loop devices"),
]


class RealDriver(Driver):
    """The same driver with real tools and real devices."""

    def restart(self) -> None:
        super().restart()
        if not isinstance(self.block, AttacherBlock):
            program = find_program() or Path("missing")
            self.block = AttacherBlock(self.manager, self.folder, program)
        runner = SystemRunner()
        devices = Devices(runner)
        contents = Contents(self.manager, devices)
        volumes = NodeVolumes(
            self.manager, self.block, devices=devices, mounts=Mounts(runner), contents=contents
        )
        self.node = NodeService(volumes, self.block)


@pytest.fixture
async def driver(tmp_path):
    made = RealDriver(tmp_path)
    assert isinstance(made.block, AttacherBlock)
    yield made
    unmount_below(tmp_path)
    await made.block.clean()


async def expand(driver, volume, path, size):
    request = csi_pb2.NodeExpandVolumeRequest(
        volume_id=volume.volume_id,
        volume_path=path,
        capacity_range=csi_pb2.CapacityRange(required_bytes=size),
    )
    return (await driver.node.NodeExpandVolume(request, None)).capacity_bytes


async def used_total(driver, volume):
    request = csi_pb2.NodeGetVolumeStatsRequest(
        volume_id=volume.volume_id, volume_path=driver.target
    )
    return (await driver.node.NodeGetVolumeStats(request, None)).usage[0].total


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
async def test_data_survives_unstage_a_dead_server_and_a_new_stage(driver, fs):
    volume = await driver.published(mount(fs))
    await driver.stage(volume, mount(fs))
    await driver.node_publish(volume, mount(fs))
    server = next(iter(driver.block.servers.values()))
    data = os.urandom(1 << 20)
    writing = asyncio.create_task(asyncio.to_thread(write_all, Path(driver.target) / "f", data))
    server.kill()
    server.start()
    await writing
    await driver.node_unpublish(volume)
    await driver.unstage(volume)
    driver.restart()
    await driver.stage(volume, mount(fs))
    await driver.node_publish(volume, mount(fs))
    assert (Path(driver.target) / "f").read_bytes() == data * 16
    assert driver.record(volume).content == Content(ContentState.FS, fs)
    assert not driver.host.log  # the fake host took no part
    await driver.node_unpublish(volume)
    await driver.unstage(volume)


def write_all(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        for _ in range(16):
            file.write(data)
            file.flush()
            os.fsync(file.fileno())


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
async def test_a_file_system_grows_online_or_at_the_next_stage(driver, fs):
    volume = await driver.published(mount(fs))
    await driver.stage(volume, mount(fs))
    await driver.node_publish(volume, mount(fs))
    before = await used_total(driver, volume)
    await driver.manager.resize_volume(driver.record(volume).id, 2 * GIB)
    try:
        assert await expand(driver, volume, driver.target, 2 * GIB) == 2 * GIB
    except DeniedError:
        # This machine does not grant CAP_SYS_RESOURCE, so the kernel refuses it for ext4.
        assert fs == "ext4"
        await driver.node_unpublish(volume)
        await driver.unstage(volume)
        await driver.stage(volume, mount(fs))
        await driver.node_publish(volume, mount(fs))
    assert await used_total(driver, volume) > before + GIB // 2


async def test_a_raw_volume_is_written_through_its_device_file(driver):
    volume = await driver.published(block())
    await driver.stage(volume, block())
    await driver.node_publish(volume, block())
    write = ["dd", "if=/dev/urandom", f"of={driver.target}", "bs=1M", "count=4", "oflag=direct"]
    subprocess.run(write, check=True, capture_output=True)
    assert await used_total(driver, volume) == GIB
    await driver.node_unpublish(volume)
    await driver.unstage(volume)
    server = next(iter(driver.block.servers.values()))
    with server.disk.open("rb") as file:
        assert file.read(4 << 20).count(0) < 1 << 20


async def test_a_read_only_publish_refuses_writes(driver):
    volume = await driver.published()
    await driver.stage(volume)
    await driver.node_publish(volume, readonly=True)
    with pytest.raises(OSError, match="Read-only"):
        (Path(driver.target) / "f").write_bytes(b"x")


async def test_a_tiny_volume_is_usable(driver):
    volume = await driver.published(size=2 << 20)
    await driver.stage(volume)
    await driver.node_publish(volume)
    (Path(driver.target) / "f").write_bytes(b"x" * 100_000)


@pytest.mark.parametrize("capability", [mount("ext4"), mount("xfs"), block()])
async def test_a_plugin_that_is_new_before_every_call_knows_mounted_volumes(driver, capability):
    volume = await driver.published(capability)
    await driver.stage(volume, capability)
    await driver.node_publish(volume, capability)
    in_use = driver.target if capability.HasField("block") else Path(driver.target) / "f"
    subprocess.run(["dd", "if=/dev/zero", f"of={in_use}", "bs=1M", "count=4"], check=True)
    with Path(in_use).open("r+b", buffering=0) as file:  # the pod goes on meanwhile
        driver.restart()
        await driver.stage(volume, capability)
        driver.restart()
        await driver.node_publish(volume, capability)
        driver.restart()
        assert await used_total(driver, volume) > GIB // 2
        driver.restart()
        await driver.manager.resize_volume(driver.record(volume).id, 2 * GIB)
        if capability.mount.fs_type != "ext4":  # that one needs a right that not all have
            assert await expand(driver, volume, driver.target, 2 * GIB) == 2 * GIB
        file.write(b"x" * 4096)
        os.fsync(file)
    driver.restart()
    with pytest.raises(ConflictError):  # it is published, as the mount table says
        await driver.unstage(volume)
    driver.restart()
    await driver.node_unpublish(volume)
    driver.restart()
    await driver.unstage(volume)
    assert await driver.block.attacher.found() == ()
    assert str(driver.folder) not in Path("/proc/self/mountinfo").read_text()
