"""What block daemon and FUSE helper say to each other; nothing here needs a kernel."""

from __future__ import annotations

import asyncio
import json
import os
import socket as sockets
from pathlib import Path

import pytest

from drystone_common.errors import DataError, DeadlineError, DrystoneError, UnavailableError
from drystone_storaged.attach import wire
from drystone_storaged.attach.fuse import FuseAttacher
from drystone_storaged.attach.interface import AttacherKind, AttachSpec, Device, Endpoint
from drystone_storaged.attach.probe import Host, make
from drystone_storaged.attach.remote import RemoteAttacher
from drystone_storaged.fuse.app import Door, serving
from drystone_storaged.fuse.service import FuseService

VOLUME = "00000000000000cd"
SPEC = AttachSpec(VOLUME, Endpoint(Path("/run/x.sock"), "e"), 4096, read_only=True)
BARE = Host(root=True, nbd_module=False, fuse_device=False, loop_control=False, fuse_program=None)


class SlowAttacher(FuseAttacher):
    """Makes nothing; an attach lasts until it is let go."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, Path("missing"))
        self.begun = asyncio.Event()
        self.go = asyncio.Event()
        self.made: list[AttachSpec] = []

    async def adopt(self, spec: AttachSpec) -> Device | None:
        return self._shown(spec) if spec in self.made else None

    async def attach(self, spec: AttachSpec) -> Device:
        self.begun.set()
        await self.go.wait()
        self.made.append(spec)
        return self._shown(spec)

    async def alive(self, volume_id: str) -> int | None:
        return None

    def _shown(self, spec: AttachSpec) -> Device:
        return Device(spec.volume_id, self.kind, "/dev/loop9", spec.size_bytes)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b"{}\n", "bad_message"),
        (b"[]\n", "bad_message"),
        (b"\xff\n", "bad_message"),
        (b'{"call": "fly"}\n', "unknown_call"),
        (b'{"call": "detach", "volume": "../x"}\n', "invalid_id"),
        (b'{"call": "resize", "volume": "00000000000000cd", "size_bytes": -1}\n', "bad_message"),
        (b'{"call": "attach", "volume": "00000000000000cd"}\n', "bad_message"),
    ],
)
async def test_nonsense_is_a_typed_answer(tmp_path, line, code):
    answer = json.loads(await FuseService(FuseAttacher(tmp_path, Path("missing"))).answer(line))
    assert answer["ok"] is False
    assert answer["error"]["code"] == code


def test_a_volume_and_its_device_survive_the_way():
    assert wire.spec_of(wire.decode(wire.encode(wire.spec_fields(SPEC)))) == SPEC
    device = Device(VOLUME, AttacherKind.FUSE, "/dev/loop3", 8192)
    assert wire.device_of(wire.device_fields(device), VOLUME) == device
    assert wire.device_of(wire.device_fields(None), VOLUME) is None


async def test_what_a_caller_asked_for_is_carried_to_its_end_without_it(tmp_path):
    attacher = SlowAttacher(tmp_path)
    socket = tmp_path / "s"
    async with serving(Door(FuseService(attacher), uid()), socket):
        with pytest.raises(DeadlineError, match="it goes on"):
            await RemoteAttacher(socket, wait_s=0.05).attach(SPEC)
        await attacher.begun.wait()
        again = asyncio.create_task(RemoteAttacher(socket).attach(SPEC))
        attacher.go.set()
        assert (await again).path == "/dev/loop9"
    assert attacher.made == [SPEC]
    assert not socket.exists()


async def test_a_stopping_helper_gives_what_there_is_and_makes_nothing_new(tmp_path):
    attacher = SlowAttacher(tmp_path)
    attacher.go.set()
    service = FuseService(attacher)
    socket = tmp_path / "s"
    async with serving(Door(service, uid()), socket):
        await RemoteAttacher(socket).attach(SPEC)
        await service.stop(0.0)
        await RemoteAttacher(socket).attach(SPEC)
        other = AttachSpec("00000000000000ce", SPEC.endpoint, 4096)
        with pytest.raises(UnavailableError) as caught:
            await RemoteAttacher(socket).attach(other)
        assert caught.value.code == "fuse_helper_stopping"


async def test_another_user_is_refused(tmp_path):
    socket = tmp_path / "s"
    async with serving(Door(FuseService(SlowAttacher(tmp_path)), uid() + 1), socket):
        with pytest.raises(DrystoneError) as caught:
            await RemoteAttacher(socket).found()
        assert caught.value.code == "not_the_same_user"
        assert socket.stat().st_mode & 0o777 == 0o600


async def test_a_second_helper_on_the_socket_is_refused_and_a_dead_ones_file_is_replaced(tmp_path):
    path = tmp_path / "s"
    door = Door(FuseService(SlowAttacher(tmp_path)), uid())
    with sockets.socket(sockets.AF_UNIX) as dead:
        dead.bind(str(path))
    async with serving(door, path):
        with pytest.raises(DrystoneError, match="another process serves"):
            async with serving(door, path):
                pass
        assert await RemoteAttacher(path).found() == ()


async def test_without_a_helper_the_reader_is_told_what_to_start(tmp_path):
    with pytest.raises(UnavailableError, match="start `drystone fuse-helper`"):
        await RemoteAttacher(tmp_path / "none").found()


@pytest.mark.parametrize(
    "answer", [b"\n", b"[]\n", b'{"ok": true}\n', b'{"ok": true, "device": 7}\n']
)
async def test_an_answer_that_makes_no_sense_is_a_typed_error(tmp_path, answer):
    async def client(_, writer):
        writer.write(answer)
        writer.close()

    async with await asyncio.start_unix_server(client, tmp_path / "s"):
        with pytest.raises(DataError):
            await RemoteAttacher(tmp_path / "s").resize(VOLUME, 1)


async def test_a_helper_that_dies_in_a_call_is_told_as_away(tmp_path):
    async def client(_, writer):
        writer.close()

    async with await asyncio.start_unix_server(client, tmp_path / "s"):
        with pytest.raises(UnavailableError) as caught:
            await RemoteAttacher(tmp_path / "s").attach(SPEC)
        assert caught.value.code == "fuse_helper_away"


async def test_with_a_helper_this_process_needs_no_fuse_of_its_own(tmp_path):
    assert BARE.kinds() == (AttacherKind.EXPORT,)
    with_helper = Host(True, False, False, False, None, fuse_helper=tmp_path / "s")
    assert with_helper.kinds() == (AttacherKind.FUSE, AttacherKind.EXPORT)
    assert isinstance(await make(AttacherKind.FUSE, tmp_path, with_helper), RemoteAttacher)


def uid() -> int:
    return os.geteuid()
