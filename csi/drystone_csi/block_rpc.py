"""The block daemon of this node over its unix socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, TypeVar

import grpc

from drystone_common.errors import DataError
from drystone_csi.model import (
    AccessMode,
    Attached,
    Attacher,
    AttachState,
    BlockInfo,
    BlockStats,
)
from drystone_csi.status import error_of
from drystone_storaged.proto import block_pb2, block_pb2_grpc

ATTACH_TIMEOUT_S: Final = 60.0
"""An attach waits for a server that has to be dropped (seconds); kubelet asks again anyway."""

CALL_TIMEOUT_S: Final = 10.0  # the daemon answers these from what it knows

CHANNEL_OPTIONS: Final = (
    # The daemon is back within a second of a restart; gRPC's own pause grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_T = TypeVar("_T")

_MODES: Final = {
    AccessMode.READ_WRITE: block_pb2.MODE_READ_WRITE,
    AccessMode.READ_ONLY: block_pb2.MODE_READ_ONLY,
}
_ATTACHERS: Final = {
    Attacher.AUTO: block_pb2.ATTACHER_AUTO,
    Attacher.NBD: block_pb2.ATTACHER_NBD,
    Attacher.FUSE: block_pb2.ATTACHER_FUSE,
    Attacher.EXPORT: block_pb2.ATTACHER_EXPORT,
}
_STATES: Final = {
    AttachState.ATTACHING: block_pb2.STATE_ATTACHING,
    AttachState.ACTIVE: block_pb2.STATE_ACTIVE,
    AttachState.STALLED: block_pb2.STATE_STALLED,
    AttachState.FENCED: block_pb2.STATE_FENCED,
}


class GrpcBlock:
    """``BlockApi`` over gRPC. Made inside the event loop that uses it; ``aclose`` ends it."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.aio.insecure_channel(
            f"unix://{socket.absolute()}", options=CHANNEL_OPTIONS
        )
        self._stub = block_pb2_grpc.BlockStub(self._channel)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._channel.close()

    async def info(self) -> BlockInfo:
        """See ``BlockApi``."""
        found = await self._call(self._stub.Info, block_pb2.InfoRequest())
        return BlockInfo(found.node, found.cluster_uuid, found.ready, found.reason)

    async def attach(self, volume_id: str, mode: AccessMode, attacher: Attacher) -> Attached:
        """See ``BlockApi``."""
        request = block_pb2.AttachRequest(
            volume_id=volume_id, mode=_MODES[mode], attacher=_ATTACHERS[attacher]
        )
        return _attached(await self._call(self._stub.Attach, request, ATTACH_TIMEOUT_S))

    async def detach(self, volume_id: str, *, force: bool = False) -> None:
        """See ``BlockApi``."""
        request = block_pb2.DetachRequest(volume_id=volume_id, force=force)
        await self._call(self._stub.Detach, request, ATTACH_TIMEOUT_S)

    async def attached(self, volume_id: str) -> Attached | None:
        """See ``BlockApi``."""
        request = block_pb2.ListRequest(volume_id=volume_id)
        found = (await self._call(self._stub.List, request)).attachments
        return _attached(found[0]) if found else None

    async def list(self) -> tuple[Attached, ...]:
        """See ``BlockApi``."""
        found = await self._call(self._stub.List, block_pb2.ListRequest())
        return tuple(_attached(attachment) for attachment in found.attachments)

    async def resize(self, volume_id: str, size_min: int) -> Attached:
        """See ``BlockApi``."""
        request = block_pb2.ResizeRequest(volume_id=volume_id, size_bytes_min=size_min)
        return _attached(await self._call(self._stub.Resize, request, ATTACH_TIMEOUT_S))

    async def stats(self, volume_id: str) -> BlockStats:
        """See ``BlockApi``."""
        found = await self._call(self._stub.Stats, block_pb2.StatsRequest(volume_id=volume_id))
        return BlockStats(
            completed_requests=found.completed_requests,
            failed_requests=found.failed_requests,
            writes_issued=found.writes_issued,
            reads_sent=found.reads_sent,
            insync_waits=found.insync_waits,
            credit_waits=found.credit_waits,
        )

    async def _call(
        self,
        method: Callable[..., Awaitable[_T]],
        request: object,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> _T:
        try:
            return await method(request, timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, "block daemon") from error


def _attached(message: block_pb2.Attachment) -> Attached:
    modes = {number: mode for mode, number in _MODES.items()}
    attachers = {number: attacher for attacher, number in _ATTACHERS.items()}
    states = {number: state for state, number in _STATES.items()}
    try:
        return Attached(
            volume_id=message.volume_id,
            mode=modes[message.mode],
            attacher=attachers[message.attacher],
            state=states[message.state],
            generation=message.generation,
            size=message.size_bytes,
            device=message.device or None,
            nbd_uri=message.nbd_uri,
            reason=message.reason,
        )
    except KeyError as error:
        raise DataError(f"the block daemon answered an unknown value {error}") from error
