"""A real server process with the native core: files become drives, are killed, come back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from drystone_common.toml import toml_text
from drystone_storaged.local.ports import HOST
from tests.storaged import manager_env
from tests.storaged.manager_env import until

GIB = 1 << 30
MIB = 1 << 20
pytestmark = pytest.mark.timeout(300)
pytest.importorskip("drystone_native")


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """Processes start: on a loaded machine their imports alone take what the others have in all."""
    monkeypatch.setattr(manager_env, "DEADLINE_S", 90.0)


@contextlib.contextmanager
def server(settings: Path):
    """`drystone server` as its own process; gone at the end, whatever happens."""
    with (settings.parent / "log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "drystone_cli", "server", "--config", str(settings)],
            stdout=log, stderr=log, env={**os.environ},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait(30)


def free_ports() -> tuple[int, int]:
    """A first port for drives with two free ones above it, and one for the beacon."""
    import socket

    for base in range(21_000, 29_000, 50):
        try:
            with contextlib.ExitStack() as stack:
                for port in (base, base + 1, base + 2):
                    stack.enter_context(socket.create_server((HOST, port)))
                udp = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
                udp.bind((HOST, base + 20))
                return base, base + 20
        except OSError:
            continue
    raise AssertionError("no free ports")


async def configure(mgr, folder: Path) -> Path:
    base, beacon = free_ports()
    disks = folder / "disks"
    disks.mkdir()
    token = folder / "token"
    token.write_text(await mgr.token("server", "node-1"))
    settings = folder / "server.toml"
    settings.write_text(
        toml_text(
            {
                "name": "node-1", "state_dir": str(folder / "state"),
                "managers": [mgr.running.control], "join_token_file": str(token),
                "beacon_listen": f"{HOST}:{beacon}", "drive_listen": f"{HOST}:{base}",
                "device_folders": [str(disks)],
            }
        )
    )  # fmt: skip
    return settings


def image(path: Path, size: int = 2 * GIB) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


async def state_of(mgr, path: Path, kind: str) -> str:
    answer = await mgr.http.get(f"/v1/nodes/node-1/{kind}")
    items = answer.json().get("items", [])
    return next((i["state"] for i in items if i["path"] == str(path)), "")


def is_(mgr, path: Path, kind: str, *states: str):
    async def check() -> bool:
        return await state_of(mgr, path, kind) in states

    return check


async def add(mgr, path: Path) -> int:
    body = {"device": f"file:{path}"}
    return (await mgr.http.post("/v1/nodes/node-1/drives", json=body)).status_code


async def in_sync(mgr) -> bool:
    pgs = (await mgr.status())["pgs"]
    return pgs["total"] > 0 and pgs["in_sync"] == pgs["total"]


async def test_files_become_drives_of_a_running_server_and_survive_its_death(mgr, tmp_path):
    settings = await configure(mgr, tmp_path)
    first, second = (tmp_path / "disks" / f"{n}.img" for n in (1, 2))
    with server(settings) as process:
        await until(lambda: mgr.services.devices.reports._devices, "the first look")
        image(first)
        # Not seen yet: the server looks before it is refused.
        assert await add(mgr, first) == 201
        await until(is_(mgr, first, "drives", "up"), "the first drive")
        body = {"name": "default", "copies": 2, "failure_domain": "drive"}
        assert (await mgr.http.post("/v1/pools", json=body)).status_code == 201
        # A second one while the first is in use: it fills the empty places.
        image(second)
        assert await add(mgr, second) == 201
        await until(is_(mgr, second, "drives", "up"), "the second drive")

        async def both_hold() -> bool:
            drives = (await mgr.status())["drives"]
            return len(drives) == 2 and all(d["pgs"]["in_sync"] for d in drives)

        await until(both_hold, "copies on both drives")
        path = f"/v1/nodes/node-1/drives/file:{first}"
        refused = await mgr.http.delete(path)
        assert (refused.status_code, refused.json()["code"]) == (409, "drive_holds_data")
        before = {d["uuid"]: d["addr"] for d in (await mgr.status())["drives"]}
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    with server(settings):
        for each in (first, second):
            await until(is_(mgr, each, "drives", "up"), "it serves again")
        await until(lambda: in_sync(mgr), "every copy is in sync again")
        assert {d["uuid"]: d["addr"] for d in (await mgr.status())["drives"]} == before


async def test_a_promise_to_answer_no_reads_that_leads_to_no_drop_is_told_and_ends(mgr, tmp_path):
    settings = await configure(mgr, tmp_path)
    only = tmp_path / "disks" / "1.img"
    with server(settings):
        await until(lambda: mgr.services.devices.reports._devices, "the first look")
        assert await add(mgr, image(only)) == 201
        await until(is_(mgr, only, "drives", "up"), "the drive")
        body = {"name": "default", "copies": 1, "pg_count": 8}
        assert (await mgr.http.post("/v1/pools", json=body)).status_code == 201
        before = (await mgr.services.feed.read()).known_pgs()
        quiet = dict(sorted(before.items(), key=lambda item: item[0].pg)[:4])
        (drive,) = (await mgr.services.feed.read()).drives.values()

        async def promises() -> bool:
            # Refused until the drive has seen these epochs.
            return await mgr.services.judge._deps.commander.quiesce(drive.node, drive.id, quiet)

        await until(promises, "the promise")

        async def renewed() -> bool:
            now = (await mgr.services.feed.read()).known_pgs()
            return all(now[ref].epoch == record.epoch + 1 for ref, record in quiet.items())

        await until(renewed, "the new epochs")
        ended = {ref: replace(record, epoch=record.epoch + 1) for ref, record in quiet.items()}
        assert (await mgr.services.feed.read()).known_pgs() == before | ended


async def test_an_evacuated_drive_is_removed_while_its_server_runs(mgr, tmp_path):
    settings = await configure(mgr, tmp_path)
    first, second, third = (tmp_path / "disks" / f"{n}.img" for n in (1, 2, 3))
    with server(settings):
        await until(lambda: mgr.services.devices.reports._devices, "the first look")
        for path in (first, second):
            assert await add(mgr, image(path)) == 201
            await until(is_(mgr, path, "drives", "up"), "the drive")
        body = {"name": "default", "copies": 2, "failure_domain": "drive", "pg_count": 8}
        assert (await mgr.http.post("/v1/pools", json=body)).status_code == 201
        device = f"file:{first}"
        drives = (await mgr.http.get("/v1/drives")).json()["items"]
        (number,) = (d["id"] for d in drives if d["device"] == device)
        refused = await mgr.http.post(f"/v1/drives/{number}/evacuate")
        assert refused.json()["code"] == "no_room"
        assert await add(mgr, image(third)) == 201
        await until(is_(mgr, third, "drives", "up"), "a drive that can take it")
        assert (await mgr.http.post(f"/v1/drives/{number}/evacuate")).status_code == 200

        async def empty() -> bool:
            return (await mgr.http.get(f"/v1/drives/{number}")).json()["held"] == 0

        await until(empty, "nothing counts on it")
        await until(lambda: in_sync(mgr), "every group has two copies")
        removed = await mgr.http.delete(f"/v1/nodes/node-1/drives/{device}")
        assert removed.status_code == 204, removed.text
        shown = (await mgr.http.get(f"/v1/drives/{number}")).json()
        assert (shown["state"], shown["evacuating"]) == ("down", False)


@pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="mkfs.ext4 is not installed")
async def test_a_file_system_is_never_formatted_not_even_when_it_came_after_the_request(
    mgr, tmp_path
):
    settings = await configure(mgr, tmp_path)
    disks = tmp_path / "disks"
    early, late, good = (disks / name for name in ("early.img", "late.img", "good.img"))

    def mkfs(path: Path) -> str:
        argv = ["mkfs.ext4", "-q", "-F", str(image(path))]
        subprocess.run(argv, check=True, timeout=60, capture_output=True)
        return digest(path)

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.sha256(file.read(64 * MIB)).hexdigest()

    contents = {early: await asyncio.to_thread(mkfs, early)}
    image(late)
    image(good)
    with server(settings):
        await until(is_(mgr, late, "devices", "blank"), "the blank file")
        assert await state_of(mgr, early, "devices") == "foreign"
        assert await add(mgr, early) == 409
    # What was blank when it was asked for holds data when the server comes back.
    await until(lambda: not mgr.services.devices.reports._devices, "the session's end")
    for path in (late, good):
        assert await add(mgr, path) == 201
    contents[late] = await asyncio.to_thread(mkfs, late)
    with server(settings):
        await until(is_(mgr, good, "drives", "up"), "the good one")
        await until(is_(mgr, late, "drives", "refused"), "the refusal")
    for path, before in contents.items():
        assert await asyncio.to_thread(digest, path) == before
