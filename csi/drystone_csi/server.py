"""Puts the services on a unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_common.sockets import check_socket_path, make_room
from drystone_csi.contents import Contents
from drystone_csi.controller import ControllerService
from drystone_csi.devices import Devices
from drystone_csi.identity import IdentityService
from drystone_csi.intercept import CallInterceptor, Ended
from drystone_csi.model import Attacher
from drystone_csi.mounts import Mounts
from drystone_csi.node import NodeService
from drystone_csi.node_volumes import NodeVolumes
from drystone_csi.ports import BlockApi, ManagerApi
from drystone_csi.proto import csi_pb2_grpc
from drystone_storaged.attach.command import Runner, SystemRunner

MESSAGE_BYTES_MAX: Final = 4 << 20  # gRPC's own default, said aloud: a CSI request is a few KiB
CALLS_MAX: Final = 256
"""Calls at once: sidecars run ten workers each by default, kubelet one a volume."""

GRACE_S: Final = 10.0  # calls under way at a stop get this; Kubernetes gives a pod 30

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """Which services a process offers: a controller, a node, or both on one socket."""

    manager: ManagerApi
    block: BlockApi | None = None
    controller: bool = True
    attacher: Attacher = Attacher.AUTO
    runner: Runner | None = None
    ended: Ended | None = None
    """Told of every call that ended."""

    async def ready(self) -> bool:
        """Whether what the services need is there."""
        if self.controller and not await self.manager.healthy():
            return False
        if self.block is None:
            return True
        try:
            return (await self.block.info()).ready
        except DrystoneError:
            return False


@asynccontextmanager
async def serving(services: Services, path: Path) -> AsyncIterator[None]:
    """Serve on a unix socket while the context is open, then let calls under way end."""
    check_socket_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    address = await asyncio.to_thread(make_room, path)
    server = grpc.aio.server(
        interceptors=(CallInterceptor(services.ended) if services.ended else CallInterceptor(),),
        maximum_concurrent_rpcs=CALLS_MAX,
        options=(("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),),
    )
    _register(services, server)
    server.add_insecure_port(address)
    await server.start()
    # Whoever reaches this socket can mount and format: root only.
    await asyncio.to_thread(path.chmod, 0o600)
    _log.info("csi_serving", socket=str(path), controller=services.controller)
    try:
        yield
    finally:
        await server.stop(GRACE_S)
        await asyncio.to_thread(path.unlink, missing_ok=True)


def _register(services: Services, server: grpc.aio.Server) -> None:
    identity = IdentityService(services.ready, controller=services.controller)
    csi_pb2_grpc.add_IdentityServicer_to_server(identity, server)
    if services.controller:
        # What is not claimed is answered UNIMPLEMENTED by the generated base class.
        controller = ControllerService(services.manager)  # type: ignore[abstract]
        csi_pb2_grpc.add_ControllerServicer_to_server(controller, server)
    if services.block is not None:
        csi_pb2_grpc.add_NodeServicer_to_server(_node(services, services.block), server)


def _node(services: Services, block: BlockApi) -> NodeService:
    runner = services.runner or SystemRunner()
    devices = Devices(runner)
    volumes = NodeVolumes(
        services.manager,
        block,
        devices=devices,
        mounts=Mounts(runner),
        contents=Contents(services.manager, devices),
        attacher=services.attacher,
    )
    return NodeService(volumes, block)
