"""A folder on a dead mount: the look ends, the loop goes on, one thread waits and no more."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from drystone_storaged.server import drive, hanging
from drystone_storaged.server.discover import Discovery, Served
from drystone_storaged.server.drive import DriveKeeper
from drystone_storaged.server.examine import Examiner
from drystone_storaged.server.folders import SILENT, Folders
from drystone_storaged.server.settings import DriveSettings
from tests.storaged.fake_devices import FakeRunner, disk
from tests.storaged.fake_native import FakeTools
from tests.storaged.manager_env import until


class DeadMount:
    """Calls below this folder do not return until it is mended."""

    def __init__(self, monkeypatch, folder) -> None:
        self.folder = str(folder)
        self.waiting = 0
        self.dead = False
        self._mended = threading.Event()
        real, scan = os.path.realpath, os.scandir

        def realpath(path, **more):
            self._hang(path)
            return real(path, **more)

        def scandir(path):
            self._hang(path)
            return scan(path)

        monkeypatch.setattr(os.path, "realpath", realpath)
        monkeypatch.setattr(os, "scandir", scandir)

    def _hang(self, path) -> None:
        if self.dead and str(path).startswith(self.folder):
            self.waiting += 1
            self._mended.wait(60)
            self.waiting -= 1

    def mend(self) -> None:
        self.dead = False
        self._mended.set()


@pytest.fixture
def mount(monkeypatch, tmp_path):
    monkeypatch.setattr(hanging, "LOOK_S", 0.05)
    folder = tmp_path / "nfs"
    folder.mkdir()
    made = DeadMount(monkeypatch, folder)
    yield made
    made.mend()


def discovery(folders_, served) -> Discovery:
    runner = FakeRunner()
    runner.disks = [disk("sda", mountpoints=["/"])]
    examiner = Examiner(runner, FakeTools(), uuid.UUID(int=1))
    return Discovery(runner, examiner, folders_, lambda: served)


async def findings(looked: Discovery) -> dict[str, str]:
    return {s.disk.id.rpartition("/")[2]: s.finding.found for s in await looked.look()}


async def test_a_folder_that_hangs_hides_nothing_else_and_its_files_are_remembered(mount, tmp_path):
    good = tmp_path / "good"
    good.mkdir()
    (good / "b.img").touch()
    (tmp_path / "nfs" / "a.img").touch()
    looked = discovery([mount.folder, str(good)], {})
    before = await findings(looked)
    assert before == {"a.img": "", "b.img": "", "serial:QX500-S-sda": "mounted at / (/dev/sda)"}
    mount.dead = True
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            assert await findings(looked) == {**before, "a.img": SILENT}
    told = [one for one in logs if one["event"] == "device_path_silent"]
    assert [one["path"] for one in told] == [mount.folder], "once, not at each look"
    assert mount.waiting == 1, "one thread, however often it was looked at"
    mount.mend()
    await until(lambda: mount.waiting == 0, "the end of the look that hung")
    assert await findings(looked) == before


async def test_a_drive_of_the_settings_on_a_dead_mount_is_still_known_as_served(mount, tmp_path):
    path = tmp_path / "nfs" / "link.img"
    there = tmp_path / "good"
    there.mkdir()
    (there / "b.img").touch()
    path.symlink_to(there / "b.img")
    looked = discovery([str(there)], {str(path): Served("u", configured=True)})
    before = await findings(looked)
    assert before["b.img"] == "drystone drive u"
    mount.dead = True
    for _ in range(3):
        assert await findings(looked) == before
    assert mount.waiting == 1


async def test_while_a_look_hangs_the_loop_goes_on_and_others_join_it(mount, monkeypatch):
    monkeypatch.setattr(hanging, "LOOK_S", 60.0)
    mount.dead = True
    looked = Folders([mount.folder])
    both = [asyncio.create_task(looked.files()) for _ in range(2)]
    await until(lambda: mount.waiting, "the look that hangs")
    assert mount.waiting == 1
    both[0].cancel()
    await asyncio.gather(both[0], return_exceptions=True)
    third = asyncio.create_task(looked.files())
    mount.mend()
    assert [await both[1], await third] == [[], []]


async def test_a_silent_folder_that_answers_again_counts_as_a_move(mount):
    looked = discovery([mount.folder], {})
    await looked.look()
    mark = looked._mark
    mount.dead = True
    await looked.look()
    assert looked._mark != mark
    mount.mend()
    await until(lambda: mount.waiting == 0, "the end of the look that hung")
    await looked.look()
    assert looked._mark == mark


async def test_a_call_that_hangs_is_left_to_itself_after_its_time():
    go = threading.Event()
    with pytest.raises(TimeoutError):
        await hanging.within(lambda: go.wait(60), 0.05)
    go.set()
    assert await hanging.within(lambda: 7, 60.0) == 7


async def test_a_failed_drive_on_a_dead_mount_is_told_without_a_look_at_the_mount(monkeypatch):
    told = asyncio.Event()
    go = threading.Event()
    monkeypatch.setattr(drive, "WHY_S", 0.05)
    monkeypatch.setattr(drive, "why_failed", lambda _path: str(go.wait(60)))

    async def report(_self, _state, reason: str) -> None:
        assert reason == "write error"
        told.set()

    monkeypatch.setattr(DriveKeeper, "_report", report)
    settings = DriveSettings(path="/dead/a.img", listen="127.0.0.1:1")
    deps: Any = SimpleNamespace(refused=lambda: None)
    keeper = DriveKeeper(settings, 0, deps)
    keeper.reason = "write error"
    async with asyncio.timeout(30):
        await keeper._tell_failed()
    assert told.is_set()
    go.set()
