# ruff: noqa: N802 - the interface definition names the methods
"""The daemon's unix socket: `drystone.block.v1.Block` over ``Volumes``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc

from drystone_common import __version__
from drystone_common.errors import (
    DrystoneError,
    InvalidArgumentError,
    InvariantError,
    NotFoundError,
)
from drystone_common.ids import parse_id
from drystone_common.logs import get_logger
from drystone_common.sockets import check_socket_path, make_room
from drystone_storaged.agent.register import Membership
from drystone_storaged.agent.status import status_of, trailing_of
from drystone_storaged.attach.interface import AttacherKind
from drystone_storaged.block.engine import EngineState
from drystone_storaged.block.figures import stats_message
from drystone_storaged.block.volumes import Attached, Volumes
from drystone_storaged.proto import block_pb2, block_pb2_grpc

CALLS_MAX: Final = 256  # kubelet asks once a volume, the CSI driver has a lock a volume
GRACE_S: Final = 2.0  # calls under way at a stop; all of them may be repeated

_KINDS: Final = {
    block_pb2.ATTACHER_NBD: AttacherKind.NBD,
    block_pb2.ATTACHER_FUSE: AttacherKind.FUSE,
    block_pb2.ATTACHER_EXPORT: AttacherKind.EXPORT,
}
_NUMBERS: Final = {kind: number for number, kind in _KINDS.items()}
_STATES: Final = {
    EngineState.ACTIVE: block_pb2.STATE_ACTIVE,
    EngineState.STALLED: block_pb2.STATE_STALLED,
    EngineState.FENCED: block_pb2.STATE_FENCED,
}

_T = TypeVar("_T")
_log = get_logger(__name__)


class BlockService(block_pb2_grpc.BlockServicer):
    """See ``proto/block.proto``."""

    def __init__(
        self,
        volumes: Volumes,
        membership: Membership,
        kinds: tuple[AttacherKind, ...],
        connected: Callable[[], bool],
    ) -> None:
        self._volumes = volumes
        self._membership = membership
        self._kinds = kinds
        self._connected = connected

    async def Info(self, _request: block_pb2.InfoRequest, _context: Any) -> block_pb2.InfoResponse:
        """Who this is."""
        ready = self._connected()
        return block_pb2.InfoResponse(
            node=self._membership.identity.name,
            client_id=self._membership.identity.uuid.hex,
            cluster_uuid=str(self._membership.cluster),
            version=__version__,
            attachers=[_NUMBERS[kind] for kind in self._kinds],
            ready=ready,
            reason="" if ready else "no manager can be reached",
        )

    async def Attach(self, request: block_pb2.AttachRequest, context: Any) -> block_pb2.Attachment:
        """Make a volume usable."""

        async def work() -> block_pb2.Attachment:
            if request.mode not in (block_pb2.MODE_READ_WRITE, block_pb2.MODE_READ_ONLY):
                raise InvalidArgumentError("the mode is missing", code="invalid_mode")
            attached = await self._volumes.attach(
                parse_id(request.volume_id, "volume id"),
                read_only=request.mode == block_pb2.MODE_READ_ONLY,
                wanted=_KINDS.get(request.attacher),
            )
            return self._message(attached)

        return await _answered(context, work())

    async def Detach(
        self, request: block_pb2.DetachRequest, context: Any
    ) -> block_pb2.DetachResponse:
        """Remove a device."""

        async def work() -> block_pb2.DetachResponse:
            volume = parse_id(request.volume_id, "volume id")
            await self._volumes.detach(volume, force=request.force)
            return block_pb2.DetachResponse()

        return await _answered(context, work())

    async def List(self, request: block_pb2.ListRequest, context: Any) -> block_pb2.ListResponse:
        """What is attached."""

        async def work() -> block_pb2.ListResponse:
            if request.volume_id:
                found = self._volumes.get(parse_id(request.volume_id, "volume id"))
                chosen = [found] if found else []
            else:
                chosen = self._volumes.list()
            return block_pb2.ListResponse(attachments=[self._message(a) for a in chosen])

        return await _answered(context, work())

    async def Resize(self, request: block_pb2.ResizeRequest, context: Any) -> block_pb2.Attachment:
        """Take over a new size."""

        async def work() -> block_pb2.Attachment:
            volume = parse_id(request.volume_id, "volume id")
            return self._message(await self._volumes.resize(volume, request.size_bytes_min))

        return await _answered(context, work())

    async def Stats(self, request: block_pb2.StatsRequest, context: Any) -> block_pb2.StatsResponse:
        """Counters of an attachment."""

        async def work() -> block_pb2.StatsResponse:
            volume = parse_id(request.volume_id, "volume id")
            found = (await self._volumes.engine.stats())["volumes"].get(str(volume))
            if found is None:
                raise NotFoundError(
                    f"volume {request.volume_id} is not attached here", code="not_attached"
                )
            return stats_message(found)

        return await _answered(context, work())

    def _message(self, attached: Attached) -> block_pb2.Attachment:
        record = attached.record
        found = self._volumes.engine.get(record.volume)
        if attached.gone:
            state, reason = block_pb2.STATE_FENCED, attached.gone
        elif found is None:
            readopting = attached.readopting
            state = block_pb2.STATE_STALLED if readopting else block_pb2.STATE_ATTACHING
            reason = attached.waiting
        else:
            state = _STATES.get(found.state, block_pb2.STATE_ATTACHING)
            reason = found.reason or attached.waiting
        return block_pb2.Attachment(
            volume_id=record.volume_id,
            volume_name=record.name,
            mode=block_pb2.MODE_READ_ONLY if record.read_only else block_pb2.MODE_READ_WRITE,
            attacher=_NUMBERS[record.attacher],
            state=state,
            generation=record.generation,
            size_bytes=record.size_bytes,
            device=(attached.device.path or "") if attached.device else "",
            nbd_uri=self._volumes.endpoint(record.volume_id).uri(),
            reason="" if state == block_pb2.STATE_ACTIVE else reason,
        )


async def _answered(context: Any, work: Awaitable[_T]) -> _T:
    """Run a call; a typed error becomes a status with its code and hint."""
    try:
        return await work
    except DrystoneError as error:
        await context.abort(status_of(error), error.message[:1000], trailing_of(error))
    except Exception as error:  # noqa: BLE001 - a defect must not look like an outage
        _log.exception("call_failed")
        await context.abort(grpc.StatusCode.INTERNAL, f"defect: {error!r}"[:1000])
    raise InvariantError("abort returned")


@asynccontextmanager
async def serving(service: BlockService, path: Path) -> AsyncIterator[None]:
    """Serve on a unix socket that only its owner reaches."""
    check_socket_path(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    address = await asyncio.to_thread(make_room, path)
    server = grpc.aio.server(maximum_concurrent_rpcs=CALLS_MAX)
    block_pb2_grpc.add_BlockServicer_to_server(service, server)
    server.add_insecure_port(address)
    await server.start()
    await asyncio.to_thread(path.chmod, 0o600)
    _log.info("block_serving", socket=str(path))
    try:
        yield
    finally:
        await server.stop(GRACE_S)
