"""The parts of the attachers that need no kernel."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from drystone_common.errors import (
    DeadlineError,
    DrystoneError,
    InvalidArgumentError,
    UnavailableError,
)
from drystone_storaged.attach import nbd_netlink, sysfs
from drystone_storaged.attach.command import CommandError, SystemRunner
from drystone_storaged.attach.export import ExportAttacher
from drystone_storaged.attach.fuse_process import _parse
from drystone_storaged.attach.interface import AttacherKind, AttachSpec, Endpoint
from drystone_storaged.attach.nbd_handshake import dial
from drystone_storaged.attach.probe import Host, make

VOLUME = "00000000000000ab"


def host(**changes) -> Host:
    facts = {
        "root": True,
        "nbd_module": True,
        "fuse_device": True,
        "loop_control": True,
        "fuse_program": Path("/usr/bin/drystone-fuse"),
    }
    return Host(**{**facts, **changes})


def test_the_kernels_own_attacher_is_preferred_and_export_always_works():
    assert host().kinds() == (AttacherKind.NBD, AttacherKind.FUSE, AttacherKind.EXPORT)
    assert host(nbd_module=False).kinds()[0] is AttacherKind.FUSE
    assert host(nbd_module=False, loop_control=False).kinds() == (AttacherKind.EXPORT,)
    assert host(root=False).kinds() == (AttacherKind.EXPORT,)


async def test_an_attacher_that_cannot_work_says_what_is_missing(tmp_path):
    with pytest.raises(UnavailableError, match="drystone-fuse"):
        await make(AttacherKind.FUSE, tmp_path, host(fuse_program=None))


async def test_an_export_has_no_device():
    spec = AttachSpec(VOLUME, Endpoint(Path("/run/x"), "e"), 4096)
    device = await ExportAttacher().attach(spec)
    assert (device.path, device.size_bytes) == (None, 4096)
    assert spec.endpoint.uri() == "nbd+unix:///e?socket=/run/x"


@pytest.mark.parametrize("volume_id", ["", "../x", "AB", "0" * 17])
def test_an_id_that_is_not_one_is_refused(volume_id):
    with pytest.raises(InvalidArgumentError):
        AttachSpec(volume_id, Endpoint(Path("/run/x"), "e"), 4096)


def test_a_socket_path_that_the_kernel_would_refuse_is_refused_with_a_hint():
    with pytest.raises(InvalidArgumentError, match="shorter path"):
        AttachSpec(VOLUME, Endpoint(Path("/" + "x" * 107), "e"), 4096)


def test_devices_are_found_in_sysfs_by_what_is_behind_them(tmp_path):
    loop = tmp_path / "loop3" / "loop"
    loop.mkdir(parents=True)
    (loop / "backing_file").write_text("/state/ab/mnt/volume\n")
    (tmp_path / "loop4").mkdir()
    nbd = tmp_path / "nbd1"
    nbd.mkdir()
    (nbd / "backend").write_text("drystone-ab\n")
    (nbd / "size").write_text("16\n")
    assert sysfs.loop_of(Path("/state/ab/mnt/volume"), tmp_path) == "loop3"
    assert sysfs.loop_of(Path("/state/other"), tmp_path) is None
    assert sysfs.nbd_of("drystone-ab", tmp_path) is None  # not set up: it has no pid
    (nbd / "pid").write_text("7\n")
    assert sysfs.nbd_of("drystone-ab", tmp_path) == "nbd1"
    assert sysfs.nbd_backends("drystone-", tmp_path) == ("drystone-ab",)
    assert sysfs.size_bytes("nbd1", tmp_path) == 8192
    assert sysfs.size_bytes("nbd9", tmp_path) == 0


async def test_waiting_for_what_does_not_come_ends_with_what_it_was():
    with pytest.raises(DeadlineError, match="moon"):
        await sysfs.until(lambda: False, "the moon falls", 0.0)


def test_a_connect_message_survives_encoding():
    built = nbd_netlink.message(
        nbd_netlink.CONNECT,
        size_bytes=1 << 40,
        timeout=30,
        dead_conn_timeout=86400,
        backend_identifier="drystone-x",
        sockets=nbd_netlink.socket_list([5, 6]),
        index=None,
    )
    built["header"]["type"] = 30
    built.encode()
    read = nbd_netlink.NbdMessage(built.data)
    read.decode()
    assert read.get_attr("NBD_ATTR_SIZE_BYTES") == 1 << 40
    assert read.get_attr("NBD_ATTR_BACKEND_IDENTIFIER") == "drystone-x"
    assert read.get_attr("NBD_ATTR_INDEX") is None
    items = read.get_attr("NBD_ATTR_SOCKETS").get_attrs("NBD_SOCK_ITEM")
    assert [item.get_attr("NBD_SOCK_FD") for item in items] == [5, 6]


def event(command: int, index: int) -> bytes:
    built = nbd_netlink.message(command, index=index)
    built["header"]["type"] = 30
    built.encode()
    return bytes(built.data)


def test_only_dead_links_are_read_from_events():
    dead = event(nbd_netlink.LINK_DEAD, 3)
    other = event(nbd_netlink.CONNECT, 4)
    assert nbd_netlink.dead_links(dead + other + dead) == [3, 3]


@pytest.mark.parametrize("cut", range(0, 28, 3))
def test_a_torn_event_is_ignored(cut):
    assert nbd_netlink.dead_links(event(nbd_netlink.LINK_DEAD, 3)[:cut]) == []


@asynccontextmanager
async def serving(path: Path, answer: bytes):
    """A peer that says ``answer`` to whoever connects, and is gone with the context."""
    ended = asyncio.Event()

    async def client(reader, writer):
        try:
            writer.write(answer)
            while await reader.read(100):
                pass
        except OSError:
            pass
        finally:
            writer.close()
            ended.set()

    async with await asyncio.start_unix_server(client, path):
        yield
        await ended.wait()


HELLO = struct.pack(">QQH", 0x4E42444D41474943, 0x49484156454F5054, 3)


def option_reply(code: int, data: bytes) -> bytes:
    return struct.pack(">QIII", 0x3E889045565A9, 7, code, len(data)) + data


async def test_an_export_is_negotiated(tmp_path):
    info = option_reply(3, struct.pack(">HQH", 0, 8192, 5))
    async with serving(tmp_path / "s", HELLO + info + option_reply(1, b"")):
        connection, size, flags = await dial(tmp_path / "s", "a")
        connection.close()
    assert (size, flags) == (8192, 5)
    assert isinstance(connection, socket.socket)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        HELLO,
        HELLO + option_reply((1 << 31) | 6, b"no such export"),
        HELLO + struct.pack(">QIII", 0x3E889045565A9, 7, 3, 1 << 31),
        HELLO + option_reply(1, b""),
        HELLO + option_reply(3, b"") * 70,
    ],
)
async def test_a_bad_nbd_server_is_a_typed_error(tmp_path, answer):
    async with serving(tmp_path / "s", answer):
        with pytest.raises(UnavailableError):
            await dial(tmp_path / "s", "a", 0.2)


async def test_a_tool_that_fails_hangs_or_is_missing_is_a_typed_error():
    run = SystemRunner().run
    with pytest.raises(CommandError, match="words") as caught:
        await run(["sh", "-c", "echo words >&2; exit 3"], timeout_s=10)
    assert caught.value.details["exit_code"] == 3
    assert (await run(["sh", "-c", "exit 3"], timeout_s=10, codes=(3,))).code == 3
    with pytest.raises(DeadlineError):
        await run(["sleep", "60"], timeout_s=0.05)
    with pytest.raises(CommandError, match="cannot be started"):
        await run(["no-such-tool-anywhere"], timeout_s=10)


@pytest.mark.parametrize("answer", [b"", b"{", b"[1]", b'{"ok": false, "error": "no"}'])
def test_a_bad_answer_of_the_helper_is_a_typed_error(answer):
    with pytest.raises(DrystoneError):
        _parse("stat", answer)
