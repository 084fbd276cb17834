"""The FUSE attacher with its real helper process, a loop device and an NBD server that dies."""

# ruff: noqa: ASYNC221, ASYNC230, ASYNC240, PTH123 - a test may wait for tools and files
from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from drystone_common.errors import ConflictError, UnavailableError
from drystone_storaged.attach.fuse import FuseAttacher
from drystone_storaged.attach.fuse_process import find_program
from drystone_storaged.attach.interface import AttacherKind, AttachSpec, Endpoint
from tests.csi import fuse_node, nbd_peer
from tests.csi.nbd_peer import Server, Writer, pattern, wait_for

MIB = 1 << 20
VOLUME = "00000000000000ab"
PROGRAM = find_program() or Path("missing")

pytestmark = [*fuse_node.NEEDED, nbd_peer.NEEDED]


@pytest.fixture
async def attacher(tmp_path, server):
    made = FuseAttacher(tmp_path / "state", PROGRAM)
    yield made
    if server.process is None:
        server.start()
    for volume_id in await made.found():
        await made.detach(volume_id, force=True)


def spec(server: Server, size: int = 64 * MIB, *, read_only: bool = False) -> AttachSpec:
    return AttachSpec(VOLUME, Endpoint(server.socket, ""), size, read_only)


async def test_an_attached_volume_is_a_device_with_4096_byte_sectors(server, attacher):
    device = await attacher.attach(spec(server))
    assert (device.kind, device.size_bytes) == (AttacherKind.FUSE, 64 * MIB)
    name = Path(device.path).name
    assert Path(f"/sys/block/{name}/queue/logical_block_size").read_text().strip() == "4096"
    assert Path(f"/sys/block/{name}/loop/dio").read_text().strip() == "1"


async def test_attaching_twice_gives_the_same_device(server, attacher):
    assert await attacher.attach(spec(server)) == await attacher.attach(spec(server))


async def test_writes_wait_while_the_server_is_killed_and_nothing_is_lost(server, attacher):
    device = await attacher.attach(spec(server))
    writer = Writer(device.path)
    try:
        for _ in range(3):
            await asyncio.to_thread(writer.progress)
            server.kill()
            server.start()
        await asyncio.to_thread(writer.progress)
    finally:
        await asyncio.to_thread(writer.stop)
    assert writer.error is None
    last = writer.count - 1
    disk = server.disk.read_bytes()
    for number in range(max(0, last - 1000), last + 1):
        at = number % 1024 * 4096
        assert disk[at : at + 4096] == pattern(number)


async def test_a_new_run_of_the_daemon_adopts_the_device_in_use(tmp_path, server, attacher):
    device = await attacher.attach(spec(server))
    writer = Writer(device.path)
    try:
        server.kill()
        restarted = FuseAttacher(tmp_path / "state", PROGRAM)
        server.start()
        assert await restarted.found() == (VOLUME,)
        assert await restarted.adopt(spec(server)) == device
        await asyncio.to_thread(writer.progress)
    finally:
        await asyncio.to_thread(writer.stop)


async def test_the_device_grows_while_it_is_mounted(tmp_path, server, attacher):
    device = await attacher.attach(spec(server))
    mount = tmp_path / "fs"
    mount.mkdir()
    subprocess.run(["mkfs.ext4", "-q", device.path], check=True)
    subprocess.run(["mount", device.path, mount], check=True)
    try:
        (mount / "file").write_bytes(b"before")
        server.grow(128 * MIB)
        grown = await attacher.resize(VOLUME, 128 * MIB)
        assert grown.size_bytes == 128 * MIB
        assert (mount / "file").read_bytes() == b"before"
    finally:
        subprocess.run(["umount", mount], check=True)


async def test_growing_beyond_the_volume_is_refused_and_says_so(server, attacher):
    await attacher.attach(spec(server))
    with pytest.raises(ConflictError, match="resize the volume first"):
        await attacher.resize(VOLUME, 65 * MIB)


async def test_a_device_in_use_is_not_detached_unless_forced(tmp_path, server, attacher):
    device = await attacher.attach(spec(server))
    mount = tmp_path / "fs"
    mount.mkdir()
    subprocess.run(["mkfs.ext4", "-q", device.path], check=True)
    subprocess.run(["mount", device.path, mount], check=True)
    try:
        with pytest.raises(ConflictError) as caught:
            await attacher.detach(VOLUME)
        assert caught.value.code == "device_busy"
        (mount / "still-works").write_bytes(b"x")
    finally:
        subprocess.run(["umount", mount], check=True)
    await attacher.detach(VOLUME)
    assert await attacher.found() == ()


async def test_what_was_discarded_reads_as_zeroes(server, attacher):
    device = await attacher.attach(spec(server))
    with open(device.path, "r+b", buffering=0) as file:
        file.write(b"x" * MIB)
        os.fsync(file)
    subprocess.run(["blkdiscard", "-o", "0", "-l", "524288", device.path], check=True)
    with open(device.path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert file.read(524288) == bytes(524288)
        assert file.read(4096) == b"x" * 4096


async def test_a_read_only_device_refuses_writes(server, attacher):
    device = await attacher.attach(spec(server, read_only=True))
    with pytest.raises(OSError), open(device.path, "r+b", buffering=0) as file:
        file.write(bytes(4096))


async def test_a_killed_helper_is_replaced_by_the_next_attach(server, attacher):
    device = await attacher.attach(spec(server))
    stat = await attacher._process(VOLUME).stat()
    os.kill(stat["pid"], 9)
    wait_for(lambda: not Path(f"/proc/{stat['pid']}").exists(), "the helper dies")
    assert await attacher.adopt(spec(server)) is None
    again = await attacher.attach(spec(server))
    assert again.size_bytes == device.size_bytes
    assert Path(again.path).read_bytes()[:4096] == bytes(4096)


async def test_without_a_server_the_attach_fails_and_says_why(server, attacher):
    server.kill()
    server.socket.unlink(missing_ok=True)
    with pytest.raises(UnavailableError) as caught:
        await attacher.attach(spec(server))
    assert caught.value.code == "fuse_helper_failed"
