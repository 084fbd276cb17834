"""When a FUSE process counts as dead: only when nobody listens on its socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from pathlib import Path

import pytest

from drystone_common.errors import ConflictError, UnavailableError
from drystone_storaged.attach import fuse_process, sysfs
from drystone_storaged.attach.fuse import FuseAttacher
from drystone_storaged.attach.interface import AttachSpec, Endpoint
from drystone_storaged.fuse.service import FuseService

VOLUME = "00000000000000ab"
SPEC = AttachSpec(VOLUME, Endpoint(Path("/run/x"), ""), 4096)


class NoRunner:
    """Nothing may be detached, unmounted or made."""

    async def run(self, argv, *, timeout_s, codes=(0,)):
        raise AssertionError(f"{argv} was run")


@pytest.fixture
def attacher(tmp_path, monkeypatch):
    monkeypatch.setattr(fuse_process, "COMMAND_WAIT_S", 0.2)
    return FuseAttacher(tmp_path, Path("/bin/false"), NoRunner())


@pytest.fixture
def process(attacher):
    made = attacher._process(VOLUME)
    made.folder.mkdir()
    return made


@contextlib.asynccontextmanager
async def listening(process, answer: bytes | None):
    """Something at the control socket; without an answer it hangs."""
    ended = asyncio.Event()

    async def serve(reader, writer):
        with contextlib.closing(writer):
            await reader.readline()
            if answer is None:
                await ended.wait()
            else:
                writer.write(answer)

    server = await asyncio.start_unix_server(serve, process._control)
    try:
        yield
    finally:
        ended.set()
        server.close()


async def test_a_process_without_a_socket_does_not_run(process):
    assert await process.stat() is None
    assert await process.is_dead()


async def test_a_process_that_left_its_socket_behind_does_not_run(process):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(process._control))
    assert await process.stat() is None
    assert await process.is_dead()


@pytest.mark.parametrize("answer", [None, b"", b'{"ok": tr'])
async def test_a_process_that_does_not_answer_is_not_known_to_be_dead(process, answer):
    async with listening(process, answer):
        with pytest.raises(UnavailableError) as caught:
            await process.stat()
        assert caught.value.code == "fuse_process_silent"
        assert not await process.is_dead()


async def test_a_lack_of_descriptors_is_no_death(process, monkeypatch):
    async def too_many(_path):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "open_unix_connection", too_many)
    with pytest.raises(UnavailableError) as caught:
        await process.stat()
    assert caught.value.code == "fuse_process_silent"


async def test_nothing_is_made_or_cleared_beside_a_process_that_hangs(
    attacher, process, monkeypatch
):
    monkeypatch.setattr(fuse_process.FuseProcess, "_spawn", lambda *_: pytest.fail("a second one"))
    monkeypatch.setattr(fuse_process.FuseProcess, "clear", lambda *_: pytest.fail("cleared"))
    async with listening(process, None):
        for call in (
            lambda: attacher.attach(SPEC),
            lambda: attacher.adopt(SPEC),
            lambda: attacher.detach(VOLUME),
            lambda: attacher.alive(VOLUME),
        ):
            with pytest.raises(UnavailableError) as caught:
                await call()
            assert caught.value.code == "fuse_process_silent"
        assert await attacher.sweep() == ()
        assert await attacher.drop_dead() == ()
        assert process.folder.exists()


async def test_a_helper_that_starts_or_stops_counts_a_process_that_hangs_as_running(
    attacher, process
):
    service = FuseService(attacher)
    async with listening(process, None):
        await service.start()
        assert await service._held() == [VOLUME]


async def test_a_forced_detach_finds_a_process_that_hangs_by_its_socket(process):
    async with listening(process, None):
        assert process._listener() == os.getpid()
        # This test is not the volume's process: it is not killed for having the socket.
        with pytest.raises(ConflictError) as caught:
            await process.quit(force=True)
        assert caught.value.code == "fuse_process_elsewhere"


async def test_a_process_that_answers_runs(process):
    async with listening(process, json.dumps({"ok": True, "pid": 7}).encode()):
        assert (await process.stat())["pid"] == 7


async def test_what_a_sweep_cannot_clear_away_keeps_no_other_volume_waiting(attacher, process):
    # A dead process whose remains resist, and one that answers nonsense; both are left as they are.
    other = attacher._process("00000000000000ac")
    other.folder.mkdir()
    (process.folder / "mnt").mkdir()
    swept = []

    async def drop(one):
        swept.append(one.folder.name)
        raise UnavailableError("losetup did not end")

    attacher._drop_loop = drop
    assert await attacher.sweep() == ()
    assert swept == [VOLUME, "00000000000000ac"]
    assert process.folder.is_dir()


def test_what_firmware_says_in_bytes_that_are_no_text_is_read_all_the_same(tmp_path):
    (tmp_path / "model").write_bytes(b"SSD \xae 9\n")
    assert sysfs.text(tmp_path / "model") == "SSD \N{REPLACEMENT CHARACTER} 9"
