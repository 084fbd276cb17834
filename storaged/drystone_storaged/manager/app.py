"""The manager process: opens the store, listens, runs the loops, stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drystone_common.errors import DataError, DrystoneError, InvalidArgumentError
from drystone_common.files import atomic_write_json, atomic_write_text, read_limited
from drystone_common.ids import new_uuid
from drystone_common.logs import configure_logging, get_logger
from drystone_storaged.agent.metrics_http import serving_metrics
from drystone_storaged.cluster.bootstrap import ensure_cluster
from drystone_storaged.cluster.store import MetadataStore
from drystone_storaged.manager.control.server import start_control
from drystone_storaged.manager.known_revision import KnownRevision
from drystone_storaged.manager.leader import LeaderLoop
from drystone_storaged.manager.loops import (
    run_compaction,
    run_events,
    run_map,
    run_orders,
    run_problems,
    run_sweep,
    supervise,
)
from drystone_storaged.manager.metadata import holds_cluster, open_store, patiently
from drystone_storaged.manager.metrics import manager_metrics
from drystone_storaged.manager.rest.server import STOP_S, cannot_listen, listen_rest, start_rest
from drystone_storaged.manager.secrets_files import load_master
from drystone_storaged.manager.services import Environment, Services, build
from drystone_storaged.manager.settings import ManagerSettings
from drystone_storaged.manager.tls import ServerCertificate, server_certificate
from drystone_storaged.manager.tokens import FollowedTokens

log = get_logger(__name__)

PORT_MAX: Final = 65_535


@dataclass(frozen=True, slots=True)
class Running:
    """A started manager."""

    services: Services
    rest: str
    control: str


@contextlib.asynccontextmanager
async def running(settings: ManagerSettings) -> AsyncIterator[Running]:
    """Start a manager; leaving the context stops it."""
    check_listen(settings)
    certificate = server_certificate(settings)
    tokens = FollowedTokens(settings)
    store = await open_store(settings)
    try:
        services = build(await patiently(store, lambda: _environment(settings, store)))
        known = KnownRevision(
            store, services.leadership, services.env.cluster.uuid, settings.state_dir
        )
        services.seen_by_servers.append(known.heard)
        try:
            await patiently(store, known.check)
            async with _serving(settings, services, tokens, certificate, known) as started:
                yield started
        finally:
            await services.close()
            with contextlib.suppress(DrystoneError):  # the lease ends by itself
                await services.leadership.resign()
    finally:
        await store.close()


async def _environment(settings: ManagerSettings, store: MetadataStore) -> Environment:
    """Found the cluster, or make sure that this manager belongs to it."""
    founded = await holds_cluster(store)
    known = settings.state_dir / "cluster"
    if store.shared and not founded and known.exists():
        raise DataError(
            f"this manager served cluster {read_limited(known).decode(errors='replace').strip()}, "
            "and the metadata store holds none",
            code="store_emptied",
            hint="check etcd_endpoints and etcd_namespace, or restore etcd; only for a new cluster "
            f"remove {known}",
        )
    master = load_master(settings.master_path, founded=founded, shared=store.shared)
    cluster = await ensure_cluster(store, new_uuid(), int(time.time()), master)
    if store.shared:
        atomic_write_text(known, f"{cluster.uuid}\n")
    return Environment(store, cluster, settings.name, master)


@contextlib.asynccontextmanager
async def _serving(
    settings: ManagerSettings,
    services: Services,
    tokens: FollowedTokens,
    certificate: ServerCertificate | None,
    known: KnownRevision,
) -> AsyncIterator[Running]:
    leader = LeaderLoop(services.leadership, services.take_over, services.ring_all)

    async def begin() -> None:
        # Leading and the first map before anybody can ask: no call meets a half-started manager.
        await leader.step()
        await services.feed.read()

    await patiently(services.env.store, begin)
    # At once: what follows may take longer than the lease lasts on a busy machine.
    tasks = [asyncio.create_task(supervise("leader", leader.run))]
    try:
        async with _listening(settings, services, tokens, certificate) as started:
            loops = _loops(settings, services) | {"tokens": tokens.run}
            loops["known revision"] = known.run
            if certificate is not None:
                loops["certificate"] = certificate.run
            tasks += [asyncio.create_task(supervise(name, loop)) for name, loop in loops.items()]
            log.info("manager is ready", rest=started.rest, control=started.control)
            yield started
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _loops(
    settings: ManagerSettings, services: Services
) -> dict[str, Callable[[], Awaitable[None]]]:
    """What runs beside calls; each looks by itself whether this manager leads."""
    loops: dict[str, Callable[[], Awaitable[None]]] = {
        "map": lambda: run_map(services),
        "joins": services.joins.run,
        "promotions": services.promotions.run,
        "voters": services.voters.run,
        "maintenance": services.maintenance.run,
        "problems": lambda: run_problems(services),
        "events": lambda: run_events(services),
        "sweep": lambda: run_sweep(services),
        "orders": lambda: run_orders(services),
        "upkeep": services.upkeep.run,
        "retests": services.retests.run,
        "scrubs": services.scrubs.run,
    }
    if services.env.store.shared and settings.etcd_compact:
        loops["compaction"] = lambda: run_compaction(services)
    return loops


@contextlib.asynccontextmanager
async def _listening(
    settings: ManagerSettings,
    services: Services,
    tokens: FollowedTokens,
    certificate: ServerCertificate | None,
) -> AsyncIterator[Running]:
    """Answer calls; first the control channel, then REST, which tells that all is there."""
    listener = listen_rest(settings)
    try:
        several = settings.metadata == "etcd"
        credentials = certificate.credentials() if certificate else None
        control, port = await start_control(
            services, settings.control_listen, credentials, several=several
        )
    except RuntimeError as error:
        listener.close()
        raise cannot_listen(settings.control_listen) from error
    rest, address = await start_rest(
        settings, services, tokens.table, listener, certificate.context if certificate else None
    )
    control_address = f"{settings.control_listen.rpartition(':')[0]}:{port}"
    atomic_write_json(
        settings.state_dir / "endpoints.json", {"rest": address, "control": control_address}
    )
    try:
        metrics = manager_metrics(services, certificate.ends if certificate else None)
        async with serving_metrics(metrics, settings.metrics_listen):
            yield Running(services, address, control_address)
    finally:
        await asyncio.gather(control.stop(STOP_S), rest.stop())


def check_listen(settings: ManagerSettings) -> None:
    """Without TLS only loopback, unless the operator says that the network is trusted."""
    # With TLS this holds for metrics too, which have none: they hold no secret, and every other
    # process of a node serves its own in the same way.
    listens = [settings.control_listen]
    if settings.metrics_listen:
        listens.append(settings.metrics_listen)
    if settings.rest_socket is None:
        listens.append(settings.rest_listen)
    for listen in listens:
        host, _, port = listen.rpartition(":")
        if not port.isdecimal() or int(port) > PORT_MAX or not host:
            raise InvalidArgumentError(f"{listen[:80]!a} is not host:port", code="invalid_listen")
        if not settings.tls and not settings.insecure_listen and not _is_loopback(host.strip("[]")):
            raise InvalidArgumentError(
                f"{listen} is not a loopback address and there is no TLS",
                code="insecure_listen",
                hint="set `tls_cert_file` and `tls_key_file`, use 127.0.0.1 or a unix socket; on a "
                "network that you trust with tokens in clear text set `insecure_listen`",
            )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def serve(settings: ManagerSettings) -> None:
    """Run until SIGTERM or SIGINT, which also end a start that waits for the store."""
    task = asyncio.current_task()
    asked = False

    def stop() -> None:
        nonlocal asked
        if not asked and task is not None:  # a second signal must not cut the orderly stop short
            asked = True
            log.info("manager stops")
            task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        async with running(settings):
            await asyncio.Event().wait()
    except asyncio.CancelledError:
        if not asked:
            raise


def main(settings: ManagerSettings) -> None:
    """Entry of `drystone manager`."""
    configure_logging("manager", level=settings.log_level)
    Path(settings.state_dir).mkdir(parents=True, exist_ok=True, mode=0o700)
    asyncio.run(serve(settings))
