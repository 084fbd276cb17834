"""`drystone csi`: puts the CSI services together; everything they know is elsewhere."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

from drystone_common import __version__
from drystone_common.errors import InvalidArgumentError
from drystone_common.logs import configure_logging
from drystone_common.metrics import Metrics
from drystone_common.settings import Settings, load_settings
from drystone_csi.block_rpc import GrpcBlock
from drystone_csi.manager_rest import RestManager
from drystone_csi.metrics import CsiMetrics
from drystone_csi.model import Attacher
from drystone_csi.server import Services, serving
from drystone_storaged.agent.metrics_http import serving_metrics
from drystone_storaged.agent.process import run_daemon
from drystone_storaged.agent.rest import read_token


class CsiSettings(Settings):
    """The file of `drystone csi`."""

    name: str
    """Name of the node, for logs."""
    socket: str
    """Path of the CSI socket."""
    rest_urls: tuple[str, ...] = ()
    """Address of each manager's management API."""
    rest_url: str = ""
    """The same where there is one manager."""
    tls_ca_file: str = ""
    """CA certificates of the managers, PEM, taken up anew when the file changes; empty = the
    system's, for addresses with https."""
    token_file: str
    """File with a token for it."""
    block_socket: str = ""
    """Socket of the node's block daemon; empty = no node service here."""
    controller: bool = True
    """Whether the controller service is offered."""
    attacher: Literal["auto", "nbd", "fuse", "export"] = "auto"
    """What volumes are attached with."""
    metrics_listen: str = ""
    """`host:port` of `/metrics` and `/healthz`; empty = none."""
    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""


def manager_urls(settings: CsiSettings) -> list[str]:
    """Every manager, named by either setting."""
    urls = [*settings.rest_urls, *([settings.rest_url] if settings.rest_url else [])]
    if not urls:
        raise InvalidArgumentError(
            "no manager is named",
            code="invalid_settings",
            hint='set rest_urls = ["http://host:8460", …]',
        )
    return list(dict.fromkeys(urls))


async def serve(settings: CsiSettings) -> None:
    """Serve until cancelled."""
    async with AsyncExitStack() as stack:
        token = await asyncio.to_thread(read_token, Path(settings.token_file))
        manager = RestManager(manager_urls(settings), token, ca_file=settings.tls_ca_file)
        stack.push_async_callback(manager.aclose)
        block = None
        if settings.block_socket:
            block = GrpcBlock(Path(settings.block_socket))
            stack.push_async_callback(block.aclose)
        metrics = Metrics("csi", __version__)
        services = Services(
            manager,
            block,
            controller=settings.controller,
            attacher=Attacher(settings.attacher),
            ended=CsiMetrics(metrics).ended,
        )
        await stack.enter_async_context(serving_metrics(metrics, settings.metrics_listen))
        await stack.enter_async_context(serving(services, Path(settings.socket)))
        await asyncio.Event().wait()


def run(config: Path) -> None:
    """Run `drystone csi` with a settings file, to its end."""
    settings = load_settings(CsiSettings, file=config)
    configure_logging("csi", level=settings.log_level)
    run_daemon(lambda: serve(settings))
