"""Daemons in this process, around stand-ins of the native cores, joined to a manager."""

# ruff: noqa: ASYNC240 - a test may wait for files

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from drystone_storaged.agent.control import Control
from drystone_storaged.agent.identity import IdentityFile
from drystone_storaged.agent.process import DaemonSettings
from drystone_storaged.agent.register import Membership, Registrant, register
from drystone_storaged.proto import control_pb2
from drystone_storaged.server.app import Server
from drystone_storaged.server.settings import ServerSettings
from tests.storaged.fake_native import FakeServerCore, FakeTools


async def token_file(mgr, folder: Path, role: str, name: str) -> str:
    """A file with a join token; one of an earlier run stays as it is."""
    folder.mkdir(exist_ok=True)
    token = folder / "token"
    if not token.exists():
        token.write_text(await mgr.token(role, name))
    return str(token)


@contextlib.asynccontextmanager
async def joined(
    settings: DaemonSettings, role: control_pb2.Role.ValueType, core
) -> AsyncIterator[tuple[Control, Membership]]:
    """Registered as at the start of a process; at its end the core is closed."""
    control = Control(settings.managers)
    try:
        file = IdentityFile(Path(settings.state_dir))
        identity = file.load_or_create(settings.name)
        registrant = Registrant(role, settings.join_token_file)
        yield control, await register(control, file, identity, registrant)
    finally:
        await control.aclose()
        core.close()


@contextlib.asynccontextmanager
async def running(daemon) -> AsyncIterator[None]:
    """A daemon that runs until the context ends."""
    task = asyncio.create_task(daemon.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@contextlib.asynccontextmanager
async def serving(settings: ServerSettings, *, core=None, tools=None, runner=None):
    """A server with these settings."""
    core = core or FakeServerCore()
    async with joined(settings, control_pb2.ROLE_SERVER, core) as (control, membership):
        server = Server(settings, control, membership, core, tools or FakeTools(), runner=runner)
        async with running(server):
            yield server
