"""`drystone fuse-helper`: its socket, and who may ask on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from drystone_common import __version__
from drystone_common.errors import DeniedError, UnavailableError
from drystone_common.logs import configure_logging, get_logger
from drystone_common.metrics import Metrics
from drystone_common.settings import load_settings
from drystone_common.sockets import check_socket_path, make_room
from drystone_storaged.agent.metrics_http import serving_metrics
from drystone_storaged.agent.process import run_daemon
from drystone_storaged.attach import wire
from drystone_storaged.attach.fuse import FuseAttacher
from drystone_storaged.attach.fuse_process import find_program
from drystone_storaged.fuse.service import FuseService
from drystone_storaged.fuse.settings import FuseHelperSettings

REQUEST_WAIT_S: Final = 5.0  # a caller writes its line at once
CONNECTIONS_MAX: Final = 1024  # one call for each volume of a node, all at once after a restart

_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid

_log = get_logger(__name__)


class FuseMetrics:
    """What the helper holds."""

    def __init__(self, metrics: Metrics, service: FuseService) -> None:
        metrics.gauge("processes", "FUSE processes of volumes that live here.").set_function(
            lambda: float(service.watched)
        )
        lost = metrics.counter("lost_total", "FUSE processes that died with a volume attached.")
        service.on_lost.append(lost.inc)


class Door:
    """Takes connections: one request each, from processes of one user only."""

    def __init__(self, service: FuseService, uid: int) -> None:
        self._service = service
        self._uid = uid

    async def client(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        with contextlib.closing(writer):
            try:
                async with asyncio.timeout(REQUEST_WAIT_S):
                    line = await reader.readline()
            except (TimeoutError, OSError, ValueError):
                return  # silent, gone, or a line without an end
            if not line:
                return
            answer = self._refusal(writer) or await self._service.answer(line)
            # A caller that was restarted meanwhile asks again and finds what was done.
            with contextlib.suppress(OSError):
                writer.write(answer)
                await writer.drain()

    def _refusal(self, writer: asyncio.StreamWriter) -> bytes | None:
        """Devices are handed out here, so the file's mode is not all that keeps others away."""
        raw = writer.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
        _, uid, _ = _CREDENTIALS.unpack(raw)
        if uid == self._uid:
            return None
        _log.warning("fuse_caller_refused", uid=uid)
        error = DeniedError(f"user {uid} may not ask the FUSE helper", code="not_the_same_user")
        return wire.encode({"ok": False, "error": error.as_dict()})


@asynccontextmanager
async def serving(door: Door, path: Path) -> AsyncIterator[None]:
    """Listen while the context lasts; a socket file of a dead run is replaced."""
    check_socket_path(path)
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    await asyncio.to_thread(make_room, path)
    before = os.umask(0o177)
    try:
        listener = await asyncio.start_unix_server(
            door.client, path, limit=wire.REQUEST_BYTES_MAX, backlog=CONNECTIONS_MAX
        )
    finally:
        os.umask(before)
    inode = await asyncio.to_thread(_inode, path)
    try:
        yield
    finally:
        listener.close()
        # Not the socket of a successor that was quicker.
        if await asyncio.to_thread(_inode, path) == inode:
            await asyncio.to_thread(path.unlink, missing_ok=True)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


async def serve(settings: FuseHelperSettings) -> None:
    """Serve until cancelled, then for as long as volumes need it."""
    program = find_program()
    if program is None:
        raise UnavailableError(
            "the program drystone-fuse is not there",
            code="fuse_program_missing",
            hint="DRYSTONE_FUSE names it",
        )
    service = FuseService(FuseAttacher(Path(settings.state_dir) / "fuse", program))
    metrics = Metrics("fuse_helper", __version__)
    FuseMetrics(metrics, service)
    await service.start()
    async with (
        serving_metrics(metrics, settings.metrics_listen),
        serving(Door(service, os.geteuid()), Path(settings.socket)),
    ):
        _log.info("fuse_helper_serving", socket=settings.socket, node=settings.name)
        try:
            await asyncio.Event().wait()
        finally:
            await service.stop(settings.stop_wait_s)


def run(config: Path) -> None:
    """Run `drystone fuse-helper` with a settings file, to its end."""
    settings = load_settings(FuseHelperSettings, file=config)
    configure_logging("fuse-helper", level=settings.log_level)
    # Its death takes every process of its container along.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("-1000")
    run_daemon(lambda: serve(settings))
