"""A server that looks for devices and a manager together; files are the disks."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest

from drystone_storaged.agent.control import Control
from drystone_storaged.agent.identity import IdentityFile
from drystone_storaged.agent.register import Registrant, register
from drystone_storaged.proto import control_pb2
from drystone_storaged.server import discover
from drystone_storaged.server import drive as keeper
from drystone_storaged.server.app import Server
from drystone_storaged.server.settings import ServerSettings
from tests.storaged.fake_devices import FakeRunner
from tests.storaged.fake_native import FakeServerCore, FakeTools
from tests.storaged.manager_env import manager, until


@pytest.fixture
async def mgr(tmp_path):
    async with manager(tmp_path / "m") as running:
        yield running


@pytest.fixture
async def port():
    """A real listener: the manager probes a drive's address before it believes that it is dead."""
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


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


def token_file(state: Path) -> Path:
    state.mkdir(exist_ok=True)
    token = state / "token"
    token.touch()
    return token


@contextlib.asynccontextmanager
async def running_server(mgr, state: Path, folder: Path, port: int, **more):
    """A server named node-1 (or ``name``) that looks for devices in ``folder``."""
    name = more.pop("name", "node-1")
    core, tools, runner = more.pop("core", None), more.pop("tools", None), more.pop("runner", None)
    token = token_file(state)
    if not token.stat().st_size:
        token.write_text(await mgr.token("server", name))
    settings = ServerSettings(
        name=name, state_dir=str(state / "state"), managers=[mgr.running.control],
        join_token_file=str(token), beacon_listen="127.0.0.1:9",
        **{"drive_listen": f"127.0.0.1:{port}", "device_folders": [str(folder)], **more},
    )  # fmt: skip
    control = Control(settings.managers)
    core = core or FakeServerCore()
    try:
        file = IdentityFile(Path(settings.state_dir))
        identity = file.load_or_create(settings.name)
        registrant = Registrant(control_pb2.ROLE_SERVER, settings.join_token_file)
        membership = await register(control, file, identity, registrant)
        server = Server(
            settings, control, membership, core, tools or FakeTools(), runner=runner or FakeRunner()
        )
        task = asyncio.create_task(server.run())
        try:
            yield server
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    finally:
        await control.aclose()
        core.close()


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
