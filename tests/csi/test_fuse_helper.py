"""The FUSE helper in a container of its own, with real devices: who may die, and what stays."""

# ruff: noqa: ASYNC221 - a test may wait for tools and files
from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drystone_common.errors import ConflictError, UnavailableError
from drystone_storaged.attach import sysfs
from drystone_storaged.attach.fuse import FuseAttacher
from drystone_storaged.attach.fuse_process import find_program
from drystone_storaged.attach.interface import AttachSpec, Endpoint
from tests.csi import fuse_node, nbd_peer
from tests.csi.fuse_node import HelperPod
from tests.csi.nbd_peer import Server, Writer, pattern, wait_for

MIB = 1 << 20
VOLUME = "00000000000000cd"

pytestmark = [*fuse_node.NEEDED, nbd_peer.NEEDED]


@pytest.fixture
async def pod(tmp_path, server):
    made = HelperPod(tmp_path)
    made.start()
    yield made
    try:
        await clean(made, server)
    finally:
        made.kill()
    assert made.bound() == [], "a loop device is left behind"
    assert made.folders() == []


async def clean(pod: HelperPod, server: Server) -> None:
    if server.process is None:
        server.start()
    if pod.process is None or pod.ended():
        pod.kill()
        pod.start()
    client = pod.client()
    for volume in await client.found():
        await client.detach(volume, force=True)


def spec(server: Server, size: int = 64 * MIB) -> AttachSpec:
    return AttachSpec(VOLUME, Endpoint(server.socket, ""), size)


async def test_a_device_outlives_restarts_of_the_block_daemon_under_load(pod, server):
    device = await pod.attach(spec(server))
    writer = Writer(device.path)
    try:
        for _ in range(3):
            await asyncio.to_thread(writer.progress)
            server.kill()  # the daemon serves the export, and is killed
            server.start()
            assert await pod.attach(spec(server)) == device
        await asyncio.to_thread(writer.progress)
    finally:
        await asyncio.to_thread(writer.stop)
    assert writer.error is None
    disk = server.disk.read_bytes()
    last = writer.count - 1
    for number in range(max(0, last - 1000), last + 1):
        assert disk[number % 1024 * 4096 :][:4096] == pattern(number)


async def test_a_device_grows_as_far_as_its_volume(pod, server):
    await pod.attach(spec(server))
    server.grow(128 * MIB)
    assert (await pod.client().resize(VOLUME, 128 * MIB)).size_bytes == 128 * MIB
    with pytest.raises(ConflictError, match="resize the volume first"):
        await pod.client().resize(VOLUME, 129 * MIB)


async def test_detaching_leaves_nothing_and_may_be_repeated(pod, server):
    await pod.attach(spec(server))
    assert len(pod.bound()) == 1
    await pod.client().detach(VOLUME)
    await pod.client().detach(VOLUME)
    assert pod.folders() == []
    assert pod.bound() == []
    assert await pod.client().found() == ()


async def test_a_mounted_device_is_not_detached(pod, server):
    device = await pod.attach(spec(server))
    mount = mounted(pod, device.path)
    try:
        with pytest.raises(ConflictError) as caught:
            await pod.client().detach(VOLUME)
        assert caught.value.code == "device_busy"
    finally:
        subprocess.run(["umount", mount], check=True)
    await pod.client().detach(VOLUME)


async def test_a_daemon_that_dies_in_the_middle_of_an_attach_finds_its_device_later(pod, server):
    line = {"call": "attach", "volume": VOLUME, "socket": str(server.socket), "export": "",
            "size_bytes": 64 * MIB}  # fmt: skip
    _, writer = await asyncio.open_unix_connection(pod.socket)
    writer.write(json.dumps(line).encode() + b"\n")
    await writer.drain()
    writer.transport.abort()
    device = await pod.attach(spec(server))
    assert await pod.client().found() == (VOLUME,)
    assert sysfs.size_bytes(Path(device.path).name) == 64 * MIB


async def test_a_pod_that_is_killed_gives_errors_at_once_and_the_next_one_clears_up(pod, server):
    device = await pod.attach(spec(server))
    mount = mounted(pod, device.path)
    try:
        pod.kill()
        with pytest.raises(OSError):
            write(mount / "file")
        pod.log.write_text("")
        forget_youth(pod)
        pod.start()
        assert "fuse_process_lost" in pod.log.read_text()
        with pytest.raises(ConflictError):  # still mounted: said, not hidden
            await pod.client().detach(VOLUME)
    finally:
        subprocess.run(["umount", mount], check=True)
    await pod.client().detach(VOLUME)
    again = await pod.attach(spec(server))
    assert sysfs.size_bytes(Path(again.path).name) == 64 * MIB


async def test_an_unused_device_of_a_killed_pod_is_gone_when_the_next_one_serves(pod, server):
    await pod.attach(spec(server))
    pod.kill()
    forget_youth(pod)
    pod.start()
    assert await pod.client().found() == ()
    assert pod.bound() == []


async def test_what_a_node_left_before_its_restart_is_cleared_up(pod, server):
    pod.kill()
    left = pod.state / "fuse" / VOLUME
    (left / "mnt").mkdir(parents=True)
    (left / "loop.json").write_text('{"name": "loop0", "content": "another-boot 1"}')
    pod.start()
    assert pod.folders() == []
    assert (await pod.attach(spec(server))).size_bytes == 64 * MIB


async def test_a_lost_process_is_told_in_the_log(pod, server):
    await pod.attach(spec(server))
    inside = json.loads(await ask(pod.state / "fuse" / VOLUME / "control", b"stat\n"))["pid"]
    subprocess.run(
        ["nsenter", "--target", str(pod.init()), "--pid", "kill", "-9", str(inside)], check=True
    )
    await asyncio.to_thread(
        wait_for, lambda: "fuse_process_lost" in pod.log.read_text(), "the loss is told"
    )


async def test_a_stop_waits_until_the_last_volume_is_detached(tmp_path, server):
    pod = HelperPod(tmp_path, stop_wait_s=60)
    pod.start()
    try:
        device = await pod.attach(spec(server))
        pod.terminate()
        await asyncio.to_thread(
            wait_for, lambda: "fuse_helper_waits" in pod.log.read_text(), "it waits"
        )
        other = AttachSpec("00000000000000ce", Endpoint(server.socket, ""), 64 * MIB)
        with pytest.raises(UnavailableError) as caught:
            await pod.client().attach(other)
        assert caught.value.code == "fuse_helper_stopping"
        assert await pod.attach(spec(server)) == device
        await pod.client().detach(VOLUME)
        await asyncio.to_thread(pod.wait)
        assert pod.folders() == []
        assert pod.bound() == []
    finally:
        pod.kill()


@pytest.mark.parametrize("how", ["terminate", "kill"])
async def test_outside_of_a_container_devices_outlive_their_helper_too(tmp_path, server, how):
    helper = HelperPod(tmp_path, contained=False)
    helper.start()
    try:
        device = await helper.attach(spec(server))
        getattr(helper, how)()
        if helper.process is not None:
            await asyncio.to_thread(helper.wait)
        assert await asyncio.to_thread(Path(str(device.path)).read_bytes) == bytes(64 * MIB)
        helper.start()
        assert await helper.attach(spec(server)) == device
    finally:
        await clean(helper, server)
        helper.kill()
    assert helper.bound() == []
    assert helper.folders() == []


async def test_a_process_of_another_container_is_never_killed_by_its_number_there(pod, server):
    await pod.attach(spec(server))
    outside = FuseAttacher(pod.state / "fuse", find_program() or Path("missing"))
    with pytest.raises(ConflictError) as caught:
        await outside.detach(VOLUME, force=True)
    assert caught.value.code == "fuse_process_elsewhere"
    assert await outside.alive(VOLUME) is not None
    await pod.client().detach(VOLUME)


async def test_a_second_helper_is_refused(pod, tmp_path):
    argv = [sys.executable, "-m", "drystone_cli", "fuse-helper", "--config",
            str(tmp_path / "fuse.toml")]  # fmt: skip
    second = subprocess.run(argv, capture_output=True, timeout=60, check=False)
    assert second.returncode != 0
    assert b"another process serves" in second.stderr
    assert await pod.client().found() == ()


async def test_another_user_is_refused_also_where_the_socket_is_open_to_all(pod):
    assert pod.socket.stat().st_mode & 0o777 == 0o600
    pod.socket.chmod(0o666)
    for folder in (pod.socket.parent, *pod.socket.parents):
        if folder.stat().st_mode & 0o055 != 0o055 and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    script = (
        "import socket;s=socket.socket(socket.AF_UNIX);"
        f"s.connect('{pod.socket}');s.sendall(b'{{\"call\": \"found\"}}\\n');print(s.recv(4096))"
    )
    argv = ["setpriv", "--reuid", "65534", "--clear-groups", sys.executable, "-c", script]
    told = subprocess.run(argv, capture_output=True, check=True, timeout=30, text=True)
    assert "not_the_same_user" in told.stdout


def mounted(pod: HelperPod, device: str) -> Path:
    pod.mount.mkdir()
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    subprocess.run(["mount", device, pod.mount], check=True)
    return pod.mount


def write(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        file.write(b"x" * MIB)
        os.fsync(file)


def forget_youth(pod: HelperPod) -> None:
    """A process that was just started is given time to answer; these are known to be dead."""
    for log in pod.state.glob("fuse/*/helper.log"):
        os.utime(log, (0, 0))


async def ask(path: Path, line: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(line)
    answer = await reader.readline()
    writer.close()
    return answer
