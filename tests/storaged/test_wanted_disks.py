"""Disks that change their names, come back elsewhere or hang; files stand for what lsblk lists."""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest

from drystone_storaged.server import discover, examine
from drystone_storaged.server.drive import DriveState
from drystone_storaged.server.lsblk import Disk
from drystone_storaged.server.settings import DriveSettings
from tests.storaged.fake_native import FakeTools
from tests.storaged.manager_env import until
from tests.storaged.wanted_env import (
    add,
    folder,
    gone,
    is_now,
    running_server,
    wanted,
)

__all__ = ["folder"]  # a fixture


class Disks:
    """What is plugged in: ids and where they are now."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.at: dict[str, str] = {}
        self.plugged = 0

    def plug(self, device: str, name: str) -> None:
        self.plugged += 1
        self.at[device] = name
        (self.base / name).touch()

    def move(self, **names: str) -> None:
        """Give disks other names, contents and all."""
        for old in names:
            (self.base / old).rename(self.base / f"{old}.moving")
        for old, new in names.items():
            (self.base / f"{old}.moving").rename(self.base / new)
        self.at = {device: names.get(name, name) for device, name in self.at.items()}

    async def listed(self, _runner, *, path: str = "", kinds=()) -> list[Disk]:
        count = str(self.plugged)
        found = [
            Disk(device, name, str(self.base / name), "8:0", 1 << 40, "ssd", sequence=count)
            for device, name in self.at.items()
        ]
        return [d for d in found if path in ("", d.path)]


@pytest.fixture
def disks(tmp_path, monkeypatch):
    base = tmp_path / "dev"
    base.mkdir()
    made = Disks(base)
    monkeypatch.setattr(discover, "list_disks", made.listed)
    return made


async def seen(mgr) -> dict[str, str]:
    items = (await mgr.http.get("/v1/nodes/node-1/devices?look=true")).json()["items"]
    return {d["id"]: d["state"] for d in items}


async def up(mgr, *devices: str) -> None:
    for device in devices:
        await until(is_now(mgr, device, "up"), f"{device} is up")


async def test_disks_that_swap_names_over_a_restart_stay_the_same_drives(
    mgr, tmp_path, folder, port, disks
):
    disks.plug("wwn:a", "sda")
    disks.plug("wwn:b", "sdb")
    async with running_server(mgr, tmp_path / "s", folder, port):
        await until(lambda: mgr.services.devices.reports._devices, "the first look")
        for device in ("wwn:a", "wwn:b"):
            await add(mgr, device)
        await up(mgr, "wwn:a", "wwn:b")
        before = {device: d["drive"] for device, d in (await wanted(mgr)).items()}
    await gone(mgr)
    disks.move(sda="sdb", sdb="sda")
    async with running_server(mgr, tmp_path / "s", folder, port) as server:
        await up(mgr, "wwn:a", "wwn:b")
        assert {device: d["drive"] for device, d in (await wanted(mgr)).items()} == before
        paths = {Path(o["path"]).name for o in server.core.opened}
        assert paths == {"sda", "sdb"}
        assert len((await mgr.http.get("/v1/drives")).json()["items"]) == 2


async def test_a_disk_that_failed_is_opened_under_its_new_name_when_it_was_plugged_again(
    mgr, tmp_path, folder, port, disks
):
    disks.plug("wwn:a", "sda")
    async with running_server(mgr, tmp_path / "s", folder, port) as server:
        await until(lambda: mgr.services.devices.reports._devices, "the first look")
        await add(mgr, "wwn:a")
        await up(mgr, "wwn:a")
        (number,) = server.core.open
        server.core.emit("drive_failed", drive=number, reason="I/O error")
        await until(is_now(mgr, "wwn:a", "refused", "drive_failed"), "the failure")
        # Never seen away: only the kernel's count of disks tells that it was.
        disks.move(sda="sdc")
        disks.plugged += 1
        await seen(mgr)
        await up(mgr, "wwn:a")
        assert Path(server.core.opened[-1]["path"]).name == "sdc"


async def test_a_name_that_leads_to_another_disk_by_now_is_not_formatted(
    mgr, folder, port, disks, monkeypatch
):
    disks.plug("wwn:a", "sda")
    async with running_server(mgr, disks.base.parent / "s", folder, port):
        await until(lambda: mgr.services.devices.reports._devices, "the first look")
    await gone(mgr)
    await add(mgr, "wwn:a")
    listed = disks.listed

    async def stale(runner, *, path: str = "", kinds=()):
        # The look sees wwn:a here; whoever asks about the path alone finds another disk.
        found = await listed(runner, path=path, kinds=kinds)
        return [d for d in found if not path]

    monkeypatch.setattr(discover, "list_disks", stale)
    async with running_server(mgr, disks.base.parent / "s", folder, port):
        await until(is_now(mgr, "wwn:a", "refused", "drive_moved"), "the refusal")
        assert not (disks.base / "sda").read_text()
        monkeypatch.setattr(discover, "list_disks", listed)
        await up(mgr, "wwn:a")


async def test_a_dead_disk_is_refused_and_costs_the_others_nothing(
    mgr, folder, port, disks, monkeypatch
):
    monkeypatch.setattr(examine, "PROBE_S", 0.2)
    disks.plug("wwn:a", "sda")
    disks.plug("wwn:b", "sdb")
    go, dead = threading.Event(), str(disks.base / "sda")
    read = examine._read_edges

    def hanging(path: str):
        if path == dead:
            go.wait(60)
        return read(path)

    async with running_server(mgr, disks.base.parent / "s", folder, port):
        await until(lambda: mgr.services.devices.reports._devices, "the first look")
    await gone(mgr)
    for device in ("wwn:a", "wwn:b"):
        await add(mgr, device)
    monkeypatch.setattr(examine, "_read_edges", hanging)
    try:
        async with running_server(mgr, disks.base.parent / "s", folder, port):
            await up(mgr, "wwn:b")
            await until(is_now(mgr, "wwn:a", "refused", "drive_silent"), "the refusal")
            go.set()
            await up(mgr, "wwn:a")
    finally:
        go.set()


async def test_a_drive_of_the_settings_on_a_dead_mount_is_refused_and_costs_the_others_nothing(
    mgr, folder, port, disks, monkeypatch
):
    monkeypatch.setattr(examine, "PROBE_S", 0.2)
    go, dead = threading.Event(), folder / "dead.img"
    dead.touch()
    disks.plug("wwn:b", "sdb")
    read = examine._read_edges

    def hanging(path: str):
        if path == str(dead):
            go.wait(60)
        return read(path)

    monkeypatch.setattr(examine, "_read_edges", hanging)
    mine = DriveSettings(path=str(dead), listen=f"127.0.0.1:{port}", init=True)
    state = disks.base.parent / "s"
    try:
        async with running_server(mgr, state, folder, port, drives=[mine]) as server:
            (keeper,) = server.drives
            await until(lambda: keeper.code == "drive_silent", "the refusal")
            await until(lambda: mgr.services.devices.reports._devices, "the first look")
            await add(mgr, "wwn:b")
            await up(mgr, "wwn:b")
            go.set()
            await until(lambda: keeper.state is DriveState.SERVING, "the drive that answers")
    finally:
        go.set()


async def test_a_drive_that_another_disk_carries_now_is_refused(mgr, tmp_path, folder, port, disks):
    disks.plug("wwn:a", "sda")
    tools = FakeTools()
    async with running_server(mgr, tmp_path / "s", folder, port, tools=tools):
        await until(lambda: mgr.services.devices.reports._devices, "the first look")
        await add(mgr, "wwn:a")
        await up(mgr, "wwn:a")
    text = (disks.base / "sda").read_text()
    drive = (await wanted(mgr))["wwn:a"]["drive"]
    (disks.base / "sda").write_text(text.replace(drive, str(uuid.uuid4())))
    async with running_server(mgr, tmp_path / "s", folder, port, tools=tools):
        await until(is_now(mgr, "wwn:a", "refused", "drive_exchanged"), "the refusal")
