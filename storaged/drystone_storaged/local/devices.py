"""Devices of a local cluster's consumers when the cluster is removed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

from drystone_common.errors import DrystoneError
from drystone_storaged.agent.status import error_of
from drystone_storaged.attach.fuse import FuseAttacher
from drystone_storaged.attach.interface import AttacherKind
from drystone_storaged.attach.probe import Host, make
from drystone_storaged.block.records import Records
from drystone_storaged.proto import block_pb2, block_pb2_grpc

DETACH_S: Final = 60.0  # drains what is in flight
FORCE_S: Final = 10.0  # the daemon's own bounds for a forced detach are a little less
LIST_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How many were detached, and what a forced detach could not."""

    detached: int
    left: tuple[str, ...] = ()


def detach_all(socket: Path, *, force: bool) -> Outcome:
    """Let a running block daemon detach everything.

    A device that is in use is refused. Forced, nothing is: what the daemon cannot detach (another
    operation may be under way, for as long as servers are away) is left to who ends the daemon.
    """
    return asyncio.run(_detach_all(socket, force=force))


async def _detach_all(socket: Path, *, force: bool) -> Outcome:
    async with grpc.aio.insecure_channel(f"unix://{socket}") as channel:
        stub = block_pb2_grpc.BlockStub(channel)
        try:
            found = (await stub.List(block_pb2.ListRequest(), timeout=LIST_S)).attachments
            if force:
                left = await asyncio.gather(*(_force(stub, a.volume_id) for a in found))
                told = tuple(line for line in left if line)
                return Outcome(len(found) - len(told), told)
            for attachment in found:
                request = block_pb2.DetachRequest(volume_id=attachment.volume_id)
                await stub.Detach(request, timeout=DETACH_S)
        except grpc.aio.AioRpcError as error:
            raise error_of(error, "block daemon") from error
        return Outcome(len(found))


async def _force(stub: block_pb2_grpc.BlockAsyncStub, volume_id: str) -> str:
    """Why a volume could not be detached; empty if it was."""
    request = block_pb2.DetachRequest(volume_id=volume_id, force=True)
    try:
        await stub.Detach(request, timeout=FORCE_S)
    except grpc.aio.AioRpcError as error:
        return f"{volume_id}: {error_of(error, 'block daemon').message}"
    return ""


def drop_dead(state: Path) -> list[str]:
    """Remove the devices of killed FUSE processes, which nobody can use; gives their names."""
    return asyncio.run(_drop_dead(state))


async def _drop_dead(state: Path) -> list[str]:
    host = Host.look()
    if AttacherKind.FUSE not in host.kinds():
        return []
    attacher = await make(AttacherKind.FUSE, state, host)
    try:
        # Only this kind has processes that die on their own.
        return list(await attacher.drop_dead()) if isinstance(attacher, FuseAttacher) else []
    finally:
        await attacher.aclose()


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
        try:
            failed += await _remove_kind(kind, volumes, state, host)
        except (DrystoneError, OSError) as error:
            failed.append(f"{kind.value}: {error}")
    return failed


async def _remove_kind(kind: AttacherKind, volumes: set[str], state: Path, host: Host) -> list[str]:
    attacher = await make(kind, state, host)
    failed = []
    try:
        for volume in await attacher.found():
            if kind is not AttacherKind.FUSE and volume not in volumes:
                continue
            try:
                await attacher.detach(volume, force=True)
            except DrystoneError as error:
                failed.append(f"{volume}: {error.message}")
    finally:
        await attacher.aclose()
    return failed
