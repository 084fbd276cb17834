"""Devices of a local cluster's consumers when the cluster is removed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import grpc

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.agent.status import error_of
from drystone_storaged.attach.interface import AttacherKind
from drystone_storaged.attach.probe import Host, make
from drystone_storaged.block.records import Records
from drystone_storaged.proto import block_pb2, block_pb2_grpc

DETACH_S: Final = 60.0  # drains what is in flight
LIST_S: Final = 5.0

_log = get_logger(__name__)


def detach_all(socket: Path, *, force: bool) -> int:
    """Let a running block daemon detach everything; gives how many there were.

    A device that is in use is refused, unless forced.
    """
    return asyncio.run(_detach_all(socket, force=force))


async def _detach_all(socket: Path, *, force: bool) -> int:
    async with grpc.aio.insecure_channel(f"unix://{socket}") as channel:
        stub = block_pb2_grpc.BlockStub(channel)
        try:
            found = await stub.List(block_pb2.ListRequest(), timeout=LIST_S)
            for attachment in found.attachments:
                request = block_pb2.DetachRequest(volume_id=attachment.volume_id, force=force)
                await stub.Detach(request, timeout=DETACH_S)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, "block daemon") from error
        return len(found.attachments)


def remove_left(state: Path) -> list[str]:
    """Remove devices whose daemon is gone, by force: their data has nowhere to go any more.

    Only those that this daemon made: its records and its FUSE folder name them. Gives what could
    not be removed.
    """
    return asyncio.run(_remove_left(state))


async def _remove_left(state: Path) -> list[str]:
    folder = state / "attachments"
    records = Records(folder).load() if folder.is_dir() else []
    wanted: dict[AttacherKind, set[str]] = {}
    for record in records:
        wanted.setdefault(record.attacher, set()).add(record.volume_id)
    host = Host.look()
    if (state / "fuse").is_dir() and AttacherKind.FUSE in host.kinds():
        wanted.setdefault(AttacherKind.FUSE, set())
    failed = []
    for kind, volumes in wanted.items():
        if kind is AttacherKind.EXPORT or kind not in host.kinds():
            continue
        attacher = await make(kind, state, host)
        try:
            found = await attacher.found()
            for volume in found:
                if kind is not AttacherKind.FUSE and volume not in volumes:
                    continue
                try:
                    await attacher.detach(volume, force=True)
                except DrystoneError as error:
                    failed.append(f"{volume}: {error.message}")
        finally:
            await attacher.aclose()
    return failed
