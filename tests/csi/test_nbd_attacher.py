"""The kernel's NBD driver through the attacher: needs a kernel that has it.

Where this kernel has none, ``make kernel-test`` runs it in one that has.
"""

# ruff: noqa: ASYNC221, ASYNC240 - a test may wait for tools and files
from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from drystone_common.errors import ConflictError
from drystone_storaged.attach.interface import AttacherKind, AttachSpec, Endpoint
from drystone_storaged.attach.nbd import NbdAttacher
from tests.csi import nbd_peer
from tests.csi.nbd_peer import Server, Writer

MIB = 1 << 20
VOLUME = "00000000000000ab"

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: block devices"),
    pytest.mark.skipif(not Path("/sys/module/nbd").exists(), reason="this kernel has no nbd"),
    nbd_peer.NEEDED,
]


@pytest.fixture
async def attacher(server):
    made = await NbdAttacher.open()
    yield made
    if server.process is None:
        server.start()
    for volume_id in await made.found():
        await made.detach(volume_id, force=True)
    await made.aclose()


def spec(server: Server, size: int = 64 * MIB) -> AttachSpec:
    return AttachSpec(VOLUME, Endpoint(server.socket, ""), size)


async def test_an_attached_volume_is_an_nbd_device_with_4096_byte_sectors(server, attacher):
    device = await attacher.attach(spec(server))
    assert (device.kind, device.size_bytes) == (AttacherKind.NBD, 64 * MIB)
    name = Path(device.path).name
    assert Path(f"/sys/block/{name}/queue/logical_block_size").read_text().strip() == "4096"
    assert await attacher.found() == (VOLUME,)
    await attacher.detach(VOLUME)
    assert await attacher.found() == ()


async def test_writes_go_on_after_the_server_was_killed(server, attacher):
    device = await attacher.attach(spec(server))
    writer = Writer(device.path)
    try:
        await asyncio.to_thread(writer.progress)
        for _ in range(2):
            server.kill()
            server.start()
            # What was in flight at the death is sent again after the kernel's timeout of 30 s.
            await asyncio.to_thread(writer.progress, 120)
    finally:
        await asyncio.to_thread(writer.stop)
    assert writer.error is None


async def test_a_new_run_of_the_daemon_adopts_the_device(server, attacher):
    device = await attacher.attach(spec(server))
    server.kill()
    await attacher.aclose()
    restarted = await NbdAttacher.open()
    server.start()
    try:
        assert await restarted.found() == (VOLUME,)
        assert await restarted.attach(spec(server)) == device
        writer = Writer(device.path)
        await asyncio.to_thread(writer.progress, 120)
        await asyncio.to_thread(writer.stop)
        await restarted.detach(VOLUME)
    finally:
        await restarted.aclose()


async def test_the_kernel_sends_again_soon_after_an_orderly_end_only(server, attacher):
    device = await attacher.attach(spec(server))
    timeout_ms = Path("/sys/block", Path(device.path).name, "queue", "io_timeout")
    writer = Writer(device.path)
    try:
        await asyncio.to_thread(writer.progress)
        await attacher.aclose()
        assert timeout_ms.read_text().strip() == "1000"
        server.kill()
        server.start()
        restarted = await NbdAttacher.open()
        try:
            assert await restarted.attach(spec(server)) == device
            assert timeout_ms.read_text().strip() == "30000"
            await asyncio.to_thread(writer.progress, 120)
            await asyncio.to_thread(writer.stop)
            await restarted.detach(VOLUME)
        finally:
            await restarted.aclose()
    finally:
        writer.go = False
    assert writer.error is None


async def test_the_device_grows_while_it_is_mounted(tmp_path, server, attacher):
    device = await attacher.attach(spec(server))
    mount = tmp_path / "fs"
    mount.mkdir()
    subprocess.run(["mkfs.ext4", "-q", device.path], check=True)
    subprocess.run(["mount", device.path, mount], check=True)
    try:
        with pytest.raises(ConflictError):
            await attacher.detach(VOLUME)
        server.grow(128 * MIB)
        assert (await attacher.resize(VOLUME, 128 * MIB)).size_bytes == 128 * MIB
    finally:
        subprocess.run(["umount", mount], check=True)
