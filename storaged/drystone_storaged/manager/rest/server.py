"""uvicorn inside our process: our socket, our signals, nothing that ticks."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from email.utils import formatdate
from typing import Final

import uvicorn
from uvicorn.server import ServerState

from drystone_common.errors import InvalidArgumentError
from drystone_storaged.manager.rest.app import create_app
from drystone_storaged.manager.rest.guard import TokenTable
from drystone_storaged.manager.services import Services
from drystone_storaged.manager.settings import ManagerSettings

STOP_S: Final = 2.0  # for calls in progress at the end
START_S: Final = 30.0  # imports of a cold machine; serving begins right after


class DatedState(ServerState):
    """Gives each answer its date when it is made; uvicorn would refresh it ten times a second."""

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """Headers of every answer."""
        return [(b"date", formatdate(usegmt=True).encode())]

    @default_headers.setter
    def default_headers(self, _: list[tuple[bytes, bytes]]) -> None:
        """Nothing is kept."""


class RestServer(uvicorn.Server):
    """Serves until ``stop``; an idle one costs nothing."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = DatedState()
        self.stopped = asyncio.Event()
        self._serving = asyncio.Event()
        self._stop = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as in the base class
        """Signals belong to the process, not to this server."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen."""
        await super().startup(sockets)
        self._serving.set()

    async def main_loop(self) -> None:
        """Wait for the end; the base class looks for it ten times a second."""
        await self._stop.wait()

    async def run_to_end(self, listener: socket.socket) -> None:
        """Serve until ``stop``."""
        try:
            await self.serve(sockets=[listener])
        finally:
            self.stopped.set()
            self._serving.set()

    async def wait_serving(self) -> None:
        """Return when it listens, or when it ended before that."""
        async with asyncio.timeout(START_S):
            await self._serving.wait()

    async def stop(self) -> None:
        """End what is in progress, within its time, and stop."""
        self.should_exit = True
        self._stop.set()
        await self.stopped.wait()


async def start_rest(
    settings: ManagerSettings,
    services: Services,
    tokens: TokenTable,
    listener: socket.socket,
    tls: ssl.SSLContext | None = None,
) -> tuple[RestServer, str]:
    """Serve on a socket that listens; gives the server and its address.

    A unix socket stays without TLS: who may open it is what its mode says.
    """
    secure = tls if settings.rest_socket is None else None
    config = uvicorn.Config(
        create_app(services, tokens),
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=int(STOP_S),
        timeout_keep_alive=30,
        # More than every CSI pod and script of a cluster together; beyond it 503.
        limit_concurrency=512,
        h11_max_incomplete_event_size=16 << 10,
        ssl_context_factory=(lambda _config, _default: secure) if secure else None,
    )
    server = RestServer(config)
    services.spawn(server.run_to_end(listener), "rest")
    await server.wait_serving()
    if settings.rest_socket:
        return server, f"unix:{settings.rest_socket}"
    host = settings.rest_listen.rpartition(":")[0]
    scheme = "https" if secure else "http"
    return server, f"{scheme}://{host}:{listener.getsockname()[1]}"


def listen_rest(settings: ManagerSettings) -> socket.socket:
    """Our own socket: uvicorn would end the process when it cannot bind."""
    try:
        if settings.rest_socket is None:
            return _listen_tcp(settings.rest_listen)
        settings.rest_socket.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(settings.rest_socket))
        settings.rest_socket.chmod(0o600)
        listener.listen()
    except OSError as error:
        raise cannot_listen(str(settings.rest_socket or settings.rest_listen)) from error
    return listener


def _listen_tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.create_server((host.strip("[]"), int(port)), family=family)
    # Accepted sockets inherit it. asyncio sets it only on sockets made with an explicit protocol,
    # and without it the body of an answer waits 40 ms for the client's delayed ACK of the head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def cannot_listen(where: str) -> InvalidArgumentError:
    """The error for an address that cannot be had."""
    return InvalidArgumentError(
        f"cannot listen on {where}",
        code="listen_failed",
        hint="another process uses it, or it is not an address of this machine",
    )
