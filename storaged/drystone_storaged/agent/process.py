"""Start and orderly stop of a daemon: signals, background tasks, the exit."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from typing import Any

import stamina

from drystone_common.errors import DrystoneError, UnavailableError
from drystone_common.logs import get_logger
from drystone_common.settings import Settings

_log = get_logger(__name__)


class DaemonSettings(Settings):
    """What every daemon's file may say."""

    name: str
    """Name of the node, given at install."""
    state_dir: str
    """Folder of the identity and of what must survive a restart."""
    managers: list[str]
    """`host:port` of the control channel of every manager."""
    tls_ca_file: str = ""
    """CA certificates of the managers, PEM, taken up anew when the file changes; empty = no TLS."""
    join_token_file: str = ""
    """File with the one-time token of the first registration."""
    metrics_listen: str = ""
    """`host:port` of the metrics endpoint; empty = none, port 0 = any."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""


class Background:
    """Tasks that live as long as the daemon; one that ends with an error ends the daemon."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] | None = None

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run it; its failure is the daemon's."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled() or task.exception() is None:
            return
        _log.error("task_failed", task=task.get_name(), exc_info=task.exception())
        if self._failed is not None and not self._failed.done():
            self._failed.set_exception(task.exception() or RuntimeError(task.get_name()))

    async def failure(self) -> None:
        """Wait for a failure and raise it."""
        if self._failed is None:
            self._failed = asyncio.get_running_loop().create_future()
        await self._failed

    async def stop(self) -> None:
        """Cancel everything and wait until it is gone."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run_daemon(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a daemon to its end.

    SIGTERM and SIGINT cancel ``main`` once, wherever it waits; its ``finally`` blocks are the
    orderly stop. An unexpected failure is logged and becomes an error exit.
    """
    # Repetitions are told once by whoever repeats; a line for each would bury everything else.
    stamina.instrumentation.set_on_retry_hooks([])
    try:
        asyncio.run(_until_signal(main()))
    except DrystoneError:
        raise
    except Exception as error:
        _log.exception("daemon_failed")
        raise UnavailableError(
            f"the daemon failed: {error!r}",
            code="daemon_failed",
            hint="does the same process run already? The log above says where it failed",
        ) from error


async def _until_signal(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    asked = False

    def stop() -> None:
        nonlocal asked
        if not asked:  # a second signal must not cut the orderly stop short
            asked = True
            _log.info("stopping")
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not asked:
            raise
    _log.info("stopped")
