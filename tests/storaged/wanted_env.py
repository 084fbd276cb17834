"""A server that looks for devices and a manager together; files are the disks."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from drystone_storaged.server import discover
from drystone_storaged.server import drive as keeper
from drystone_storaged.server.settings import ServerSettings
from tests.storaged.daemon_env import serving, token_file
from tests.storaged.fake_devices import FakeRunner
from tests.storaged.manager_env import until


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where blank files are blank disks; looked at often."""
    monkeypatch.setattr(discover, "PERIOD_S", 0.02)
    monkeypatch.setattr(discover, "MOVES", ())
    monkeypatch.setattr(keeper, "RETRY_MIN_S", 0.02)
    monkeypatch.setattr(keeper, "RETRY_MAX_S", 0.05)
    made = tmp_path / "disks"
    made.mkdir()
    return made


@contextlib.asynccontextmanager
async def running_server(mgr, state: Path, folder: Path, port: int, **more):
    """A server named node-1 (or ``name``) that looks for devices in ``folder``."""
    name = more.pop("name", "node-1")
    parts = {part: more.pop(part, None) for part in ("core", "tools", "runner")}
    settings = ServerSettings(
        name=name, state_dir=str(state / "state"), managers=[mgr.running.control],
        join_token_file=await token_file(mgr, state, "server", name), beacon_listen="127.0.0.1:9",
        **{"drive_listen": f"127.0.0.1:{port}", "device_folders": [str(folder)], **more},
    )  # fmt: skip
    parts["runner"] = parts["runner"] or FakeRunner()
    async with serving(settings, **parts) as server:
        yield server


async def devices(mgr, node: str = "node-1") -> dict[str, dict]:
    answer = await mgr.http.get(f"/v1/nodes/{node}/devices")
    return {d["path"]: d for d in answer.json()["items"]}


async def wanted(mgr, node: str = "node-1") -> dict[str, dict]:
    answer = await mgr.http.get(f"/v1/nodes/{node}/drives")
    return {d["device"]: d for d in answer.json()["items"]}


async def add(mgr, device, *, node: str = "node-1", status: int = 201, **more) -> dict:
    answer = await mgr.http.post(f"/v1/nodes/{node}/drives", json={"device": str(device), **more})
    assert answer.status_code == status, answer.text
    return answer.json()


def is_now(mgr, device: str, state: str, code: str | None = None):
    async def check() -> bool:
        found = (await wanted(mgr)).get(device, {})
        return found.get("state") == state and code in (None, found.get("code"))

    return check


def seen_as(mgr, path: Path, state: str):
    async def check() -> bool:
        return (await devices(mgr)).get(str(path), {}).get("state") == state

    return check


async def gone(mgr) -> None:
    """Wait until the manager knows that no server is there."""
    await until(lambda: not mgr.services.devices.reports._devices, "the session's end")


def blank(path: Path) -> str:
    path.touch()
    return f"file:{path}"
