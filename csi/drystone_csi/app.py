"""The driver as a process: settings, adapters, signals."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

from drystone_common.errors import InvalidArgumentError
from drystone_common.files import read_limited
from drystone_common.settings import Settings
from drystone_csi.block_rpc import GrpcBlock
from drystone_csi.manager_rest import RestManager
from drystone_csi.model import Attacher
from drystone_csi.server import Services, serving

TOKEN_BYTES_MAX: Final = 4096  # a token is one line


class CsiSettings(Settings):
    """Settings of `drystone csi`; the variables are DRYSTONE_SOCKET and so on."""

    socket: Path
    """Where the services are offered: kubelet and the sidecars connect here."""

    manager_url: str
    """The management API, such as http://127.0.0.1:8460."""

    token_file: Path | None = None
    """A file with the bearer token; read at the start."""

    block_socket: Path | None = None
    """The block daemon of this node; the Node service is offered when it is given."""

    controller: bool = True
    """Offer the Controller service."""

    attacher: Attacher = Attacher.AUTO
    """How devices are made; auto leaves it to the block daemon."""

    default_pool: str = "default"
    """The pool whose capacity is told when a StorageClass names none."""


async def run(settings: CsiSettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    if not settings.controller and settings.block_socket is None:
        raise InvalidArgumentError(
            "neither a controller nor a node service is wanted",
            hint="set block_socket for the node service, or controller",
        )
    token = None
    if settings.token_file is not None:
        raw = await asyncio.to_thread(read_limited, settings.token_file, bytes_max=TOKEN_BYTES_MAX)
        token = raw.decode().strip()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        manager = RestManager(settings.manager_url, token, default_pool=settings.default_pool)
        stack.push_async_callback(manager.aclose)
        block = None
        if settings.block_socket is not None:
            block = GrpcBlock(settings.block_socket)
            stack.push_async_callback(block.aclose)
        services = Services(
            manager, block, controller=settings.controller, attacher=settings.attacher
        )
        await stack.enter_async_context(serving(services, settings.socket))
        await stop.wait()
