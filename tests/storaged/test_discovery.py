"""The list of devices: disks and files, what is left out, when somebody looks again."""

from __future__ import annotations

import asyncio
import contextlib
import uuid

import pytest

from drystone_storaged.proto import control_pb2
from drystone_storaged.server import discover
from drystone_storaged.server.discover import Discovery, Served, message_of
from drystone_storaged.server.examine import Examiner, Finding, State
from tests.storaged.fake_devices import FakeRunner, disk
from tests.storaged.fake_native import FakeTools
from tests.storaged.manager_env import until

OURS = uuid.UUID(int=1)


class Env:
    def __init__(self, folder) -> None:
        self.runner = FakeRunner()
        self.served: dict[str, Served] = {}
        self.folder = folder
        examiner = Examiner(self.runner, FakeTools(), OURS)
        self.discovery = Discovery(self.runner, examiner, [str(folder)], lambda: self.served)

    async def look(self) -> dict[str, tuple[str, str]]:
        seen = await self.discovery.look()
        return {s.disk.id: (s.finding.state.value, s.finding.found) for s in seen}


@pytest.fixture
def env(tmp_path):
    folder = tmp_path / "disks"
    folder.mkdir()
    return Env(folder)


async def test_regular_files_of_the_folders_are_devices_and_nothing_else_is(env, tmp_path):
    (env.folder / "a.img").touch()
    (env.folder / "b.txt").touch()
    (env.folder / "has space.img").touch()
    (env.folder / ("x" * 240 + ".img")).touch()
    (env.folder / "folder.img").mkdir()
    (tmp_path / "outside.img").touch()
    (env.folder / "link.img").symlink_to(tmp_path / "outside.img")
    assert await env.look() == {f"file:{env.folder}/a.img": ("blank", "")}


async def test_what_lsblk_says_of_use_needs_no_probe(env):
    env.runner.disks = [disk("sda", mountpoints=["/"]), disk("sdc", serial=None)]
    found = await env.look()
    assert found["serial:QX500-S-sda"] == ("in_use", "mounted at / (/dev/sda)")
    assert "serial:QX500-S-sdc" not in found
    assert not any(call[0] == "blkid" for call in env.runner.calls)


async def test_a_device_that_vanishes_while_it_is_probed_is_not_there(env):
    # There is no such path on this machine.
    env.runner.disks = [disk("nothing-here")]
    assert await env.look() == {}


async def test_what_is_served_here_is_not_touched(env):
    ours, file = str(uuid.uuid4()), env.folder / "a.img"
    file.touch()
    env.runner.disks = [disk("sda")]
    env.served = {
        "serial:QX500-S-sda": Served(ours), str(file): Served("", configured=True)
    }  # fmt: skip
    assert await env.look() == {
        "serial:QX500-S-sda": ("ours", f"drystone drive {ours}"),
        f"file:{file}": ("ours", "in the server's settings"),
    }
    assert [call[0] for call in env.runner.calls] == ["lsblk"]
    told = message_of(env.discovery.seen)
    assert [(d.configured, d.state) for d in told.devices] == [
        (False, control_pb2.DEVICE_STATE_OURS), (True, control_pb2.DEVICE_STATE_OURS),
    ]  # fmt: skip


async def test_a_disk_without_an_identity_or_with_partitions_is_never_blank(env, monkeypatch):
    async def blank(*_args, **_more):
        return Finding(State.BLANK)

    monkeypatch.setattr(env.discovery._examiner, "examine", blank)
    part = {"name": "sdc1", "type": "part"}
    env.runner.disks = [disk("sda", serial=None), disk("sdb"), disk("sdc", children=[part])]
    found = await env.look()
    assert found["serial:QX500-S-sdb"] == ("blank", "")
    assert found["serial:QX500-S-sdc"] == ("foreign", "partitions")
    state, why = found["unnamed:/dev/sda"]
    assert (state, "settings" in why) == ("foreign", True)


async def test_a_broken_lsblk_hides_no_file_and_forgets_no_disk(env):
    (env.folder / "a.img").touch()
    env.runner.disks = [disk("sda", mountpoints=["/"])]
    before = await env.look()
    env.runner.broken.add("lsblk")
    assert await env.look() == before
    assert len(before) == 2


async def test_a_folder_that_cannot_be_read_hides_nothing_else(env):
    env.runner.disks = [disk("sda", mountpoints=["/"])]
    env.folder.rmdir()
    assert len(await env.look()) == 1


async def test_of_thousands_of_disks_those_that_are_served_stay(env):
    env.runner.disks = [disk(f"sd{n:04}", mountpoints=["/"]) for n in range(5000)]
    env.served = {"serial:QX500-S-sd4999": Served("")}
    found = await env.look()
    assert len(found) == discover.DEVICES_MAX
    assert "serial:QX500-S-sd4999" in found
    assert len(message_of(env.discovery.seen).SerializeToString()) < 1 << 20


async def test_a_path_is_checked_against_the_device_it_was_seen_for(env):
    env.runner.disks = [disk("sda"), disk("sdb")]
    assert await env.discovery.is_still("serial:QX500-S-sdb", "/dev/sdb")
    assert not await env.discovery.is_still("serial:QX500-S-sda", "/dev/sdb")
    assert not await env.discovery.is_still("serial:QX500-S-sdc", "/dev/sdc")
    assert await env.discovery.is_still("file:/d/a.img", "/d/a.img")
    assert not await env.discovery.is_still("file:/d/a.img", "/d/b.img")


@contextlib.asynccontextmanager
async def running(discovery):
    task = asyncio.create_task(discovery.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_look_that_fails_is_not_the_end(env, monkeypatch):
    monkeypatch.setattr(discover, "PERIOD_S", 0.01)
    monkeypatch.setattr(discover, "MOVES", ())
    fails = [True]
    look = env.discovery.look

    async def once():
        if fails.pop() if fails else False:
            raise RuntimeError("a defect")
        return await look()

    monkeypatch.setattr(env.discovery, "look", once)
    async with running(env.discovery):
        await until(lambda: env.discovery.looked, "the look after the one that failed")


async def test_a_new_file_is_seen_by_itself_and_quiet_folders_start_no_tool(env, monkeypatch):
    monkeypatch.setattr(discover, "PERIOD_S", 0.01)
    # Mounts of other tests on this machine are none of this one's business.
    monkeypatch.setattr(discover, "MOVES", ())
    async with running(env.discovery):
        await until(lambda: env.discovery.looked, "the first look")
        calls = len(env.runner.calls)
        (env.folder / "a.img").touch()
        await until(lambda: env.discovery.seen, "the new file")
        assert len(env.runner.calls) - calls <= 2 * 3, "lsblk and two probes, at most twice"
        calls = len(env.runner.calls)
        env.discovery.ask()
        await until(lambda: len(env.runner.calls) > calls, "the look that was asked for")


async def test_a_look_that_cannot_be_begun_ends_no_loop(env, monkeypatch):
    """As where no thread can be started any more: the other drives of the server go on."""
    tries = 0

    async def none():
        nonlocal tries
        tries += 1
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(env.discovery._folders, "files", none)
    running = asyncio.create_task(env.discovery.run())
    await until(lambda: tries > 0, "a first try")
    env.discovery.ask()
    await until(lambda: tries > 1, "another one")
    assert not running.done()
    running.cancel()
