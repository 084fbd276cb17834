"""The manager process: opens the store, listens, runs the loops, stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn

from drystone_common.errors import DrystoneError, InvalidArgumentError
from drystone_common.files import atomic_write_json
from drystone_common.ids import new_uuid
from drystone_common.logs import configure_logging, get_logger
from drystone_storaged.cluster.bootstrap import ensure_cluster
from drystone_storaged.cluster.leadership import KEEPALIVE_S
from drystone_storaged.cluster.store_sqlite import SqliteStore
from drystone_storaged.manager.control.server import start_control
from drystone_storaged.manager.joins import LeaderLoop
from drystone_storaged.manager.metrics import ManagerMetrics
from drystone_storaged.manager.rest.app import create_app
from drystone_storaged.manager.secrets_files import load_admin_token, load_master, load_tokens
from drystone_storaged.manager.services import Environment, Services, build
from drystone_storaged.manager.settings import ManagerSettings

log = get_logger(__name__)

PORT_MAX: Final = 65_535
RESTART_S: Final = 0.5  # pause of a loop that failed: it must not spin on a store that is away
SWEEP_S: Final = 1.0  # a death that no event told is found within it; costs one read of the map
ORDERS_S: Final = 5.0  # orders wait for drives that are away; a look is one read when there is none
STOP_S: Final = 2.0  # for calls in progress at the end
START_S: Final = 30.0  # imports of a cold machine; serving begins right after


@dataclass(frozen=True, slots=True)
class Running:
    """A started manager."""

    services: Services
    rest: str
    control: str


async def supervise(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop for ever: one that fails is begun anew, loudly."""
    while True:
        try:
            await loop()
        except DrystoneError as error:
            log.warning("a loop stopped, beginning anew", loop=name, reason=str(error))
        except Exception:
            log.exception("a loop failed, beginning anew", loop=name)
        await asyncio.sleep(RESTART_S)


async def run_orders(services: Services) -> None:
    """Carry out orders when there are new ones, and again and again while some remain."""
    while True:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ORDERS_S):
                await services.wake_orders.wait()
        services.wake_orders.clear()
        if services.leadership.leads:
            await services.orders.run()


async def run_sweep(services: Services) -> None:
    """Look again and again for what no event told."""
    while True:
        await asyncio.sleep(SWEEP_S)
        if services.leadership.leads:
            await services.judge.sweep()


@contextlib.asynccontextmanager
async def running(settings: ManagerSettings) -> AsyncIterator[Running]:
    """Start a manager; leaving the context stops it."""
    check_listen(settings)
    path = settings.state_dir / "store.sqlite"
    master = load_master(settings.master_path, store_exists=path.exists())
    tokens = load_tokens(settings.tokens_path)
    if settings.admin_token_file is not None:
        tokens[load_admin_token(settings.admin_token_file)] = "admin"
    store = await SqliteStore.open(path)
    try:
        cluster = await ensure_cluster(store, new_uuid(), int(time.time()))
        services = build(Environment(store, cluster, settings.name, master))
        async with _serving(settings, services, tokens) as started:
            yield started
        await services.close()
        await services.leadership.resign()
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def _serving(
    settings: ManagerSettings, services: Services, tokens: dict[str, str]
) -> AsyncIterator[Running]:
    async def elected() -> None:
        await services.silence.recover()
        await services.tasks.resume()

    leader = LeaderLoop(services.leadership, elected, KEEPALIVE_S)
    # Leading and the first map before anybody can ask: no call meets a half-started manager.
    await leader.step()
    await services.feed.read()
    loops: dict[str, Callable[[], Awaitable[None]]] = {
        "leader": leader.run,
        "map": services.feed.run,
        "joins": services.joins.run,
        "promotions": services.promotions.run,
        "voters": services.voters.run,
        "sweep": lambda: run_sweep(services),
        "orders": lambda: run_orders(services),
    }
    listener = _listen(settings)
    try:
        control, port = await start_control(services, settings.control_listen)
    except RuntimeError as error:
        listener.close()
        raise _cannot_listen(settings.control_listen) from error
    rest, address = await _start_rest(settings, services, tokens, listener)
    tasks = [asyncio.create_task(supervise(name, loop)) for name, loop in loops.items()]
    control_address = f"{settings.control_listen.rpartition(':')[0]}:{port}"
    atomic_write_json(
        settings.state_dir / "endpoints.json", {"rest": address, "control": control_address}
    )
    metrics = ManagerMetrics(services)
    metrics_server = metrics.listen(settings.metrics_listen)
    log.info("manager is ready", rest=address, control=control_address)
    try:
        yield Running(services, address, control_address)
    finally:
        if metrics_server is not None:
            metrics_server.shutdown()
        rest.should_exit = True
        await control.stop(STOP_S)
        await rest.stopped.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class RestServer(uvicorn.Server):
    """uvicorn inside our process: our signals, and an event when it has stopped."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stopped = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # noqa: ANN201 - as in the base class
        """Signals belong to the process, not to this server."""
        yield

    async def run_to_end(self, listener: socket.socket) -> None:
        """Serve until ``should_exit``."""
        try:
            await self.serve(sockets=[listener])
        finally:
            self.stopped.set()


async def _start_rest(
    settings: ManagerSettings,
    services: Services,
    tokens: dict[str, str],
    listener: socket.socket,
) -> tuple[RestServer, str]:
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
    )
    server = RestServer(config)
    services.spawn(server.run_to_end(listener), "rest")
    async with asyncio.timeout(START_S):
        while not server.started:  # noqa: ASYNC110 - uvicorn has a flag, no event
            await asyncio.sleep(0.005)
    if settings.rest_socket:
        return server, f"unix:{settings.rest_socket}"
    host = settings.rest_listen.rpartition(":")[0]
    return server, f"http://{host}:{listener.getsockname()[1]}"


def _listen(settings: ManagerSettings) -> socket.socket:
    # Our own socket: uvicorn would end the process when it cannot bind.
    try:
        if settings.rest_socket is None:
            host, _, port = settings.rest_listen.rpartition(":")
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            return socket.create_server((host.strip("[]"), int(port)), family=family)
        settings.rest_socket.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(settings.rest_socket))
        settings.rest_socket.chmod(0o600)
        listener.listen()
    except OSError as error:
        raise _cannot_listen(str(settings.rest_socket or settings.rest_listen)) from error
    return listener


def _cannot_listen(where: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"cannot listen on {where}",
        code="listen_failed",
        hint="another process uses it, or it is not an address of this machine",
    )


def check_listen(settings: ManagerSettings) -> None:
    """Without TLS only loopback, unless the operator says that the network is trusted."""
    listens = [settings.control_listen]
    if settings.metrics_listen:
        listens.append(settings.metrics_listen)
    if settings.rest_socket is None:
        listens.append(settings.rest_listen)
    for listen in listens:
        host, _, port = listen.rpartition(":")
        if not port.isdecimal() or int(port) > PORT_MAX or not host:
            raise InvalidArgumentError(f"{listen[:80]!a} is not host:port", code="invalid_listen")
        if not settings.insecure_listen and not _is_loopback(host.strip("[]")):
            raise InvalidArgumentError(
                f"{listen} is not a loopback address and there is no TLS",
                code="insecure_listen",
                hint="use 127.0.0.1, a unix socket, or --insecure-listen on a trusted network",
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def serve(settings: ManagerSettings) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings):
        await stop.wait()
        log.info("manager stops")


def main(settings: ManagerSettings) -> None:
    """Entry of `drystone manager`."""
    configure_logging("manager", level=settings.log_level)
    Path(settings.state_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
    asyncio.run(serve(settings))
