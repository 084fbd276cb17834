"""Attach and detach from the command line: publish at the manager, then ask the block daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from drystone_cli.context import Cluster, connected
from drystone_cli.output import say
from drystone_common.errors import (
    ConflictError,
    DeadlineError,
    DrystoneError,
    NotFoundError,
    UnavailableError,
)
from drystone_storaged.agent.rest import segment

ATTACH_S: Final = 90.0  # a fail-over takes seconds; the daemon itself gives up before this
FORCE_PROBE_S: Final = 1.0
"""A daemon that does not say who it is in this time is frozen or dead: the fence does not need
it."""

PROBE_S: Final = 5.0
"""The same where the daemon is needed: a busy machine may take seconds, a frozen one never
answers."""

FORCE_S: Final = 10.0  # the daemon's own bound for a forced detach is a little less

_T = TypeVar("_T")
_KINDS: Final = {"auto": 0, "nbd": 1, "fuse": 2, "export": 3}


def attach(
    cluster: Cluster, name: str, node: str | None, kind: str, *, read_only: bool
) -> dict[str, Any]:
    """Publish and attach; repeating it gives the same."""
    chosen = _node(cluster, node)
    with connected(cluster) as rest:
        volume = rest.get(f"/v1/volumes/{segment(name)}")
        mode = "ro" if read_only else "rw"
        with _next_step(volume, chosen):
            rest.post(f"/v1/volumes/{volume['id']}/publish", {"node": chosen, "mode": mode})
            return _attach(cluster, volume, chosen, kind, read_only=read_only)


def detach(cluster: Cluster, name: str, node: str | None, *, force: bool) -> list[str]:
    """Detach from one node or from all; the unpublish fences whoever did not answer.

    Gives the nodes that had it. A node of this machine is asked in any case: one that was fenced
    may still have the dead device.
    """
    with connected(cluster) as rest:
        volume = rest.get(f"/v1/volumes/{segment(name)}")
        found = {p["node"] for p in volume["publications"]}
        found |= {a["node"] for a in volume["attachments"]}
        if node is not None and node not in found and node not in cluster.block:
            rest.get(f"/v1/nodes/{segment(node)}")  # a name that nobody has is an error
            return []
        nodes = [node] if node else sorted(found)
        had = []
        for each in nodes:
            if each in cluster.block:
                if _detach(cluster, volume, each, force=force) or each in found:
                    had.append(each)
            elif not force and any(a["node"] == each for a in volume["attachments"]):
                raise NotFoundError(
                    f"node {each} is not on this machine",
                    code="node_elsewhere",
                    hint="detach it there, or use --force to fence it",
                )
            else:
                had.append(each)
            rest.post(f"/v1/volumes/{volume['id']}/unpublish", {"node": each})
        if node is None:
            had += _drop_dead(cluster, volume, found, force=force)
        return had


def _drop_dead(
    cluster: Cluster, volume: dict[str, Any], done: Collection[str], *, force: bool
) -> list[str]:
    """Remove devices of nodes that were fenced before; what does not work out is only told."""
    had = []
    for each in sorted(set(cluster.block).difference(done)):
        try:
            if _holds(cluster, volume, each) and _detach(cluster, volume, each, force=force):
                had.append(each)
        except DrystoneError as error:
            say(f"{each} may keep a dead device: {error.message}")
    return had


def _holds(cluster: Cluster, volume: dict[str, Any], node: str) -> bool:
    from drystone_storaged.proto import block_pb2  # noqa: PLC0415 - gRPC is slow to import

    which = block_pb2.ListRequest(volume_id=volume["id"])
    # A daemon that is not needed is not waited for as long as one that is.
    limit_s = FORCE_PROBE_S
    found = _call(cluster.block[node], node, lambda stub: stub.List(which, timeout=limit_s))
    return bool(found.attachments)


def _node(cluster: Cluster, node: str | None) -> str:
    if node is not None and node in cluster.block:
        return node
    if node is None and cluster.block:
        return min(cluster.block, key=lambda name: (len(name), name))
    names = ", ".join(sorted(cluster.block)) or "none"
    raise NotFoundError(
        f"there is no consuming node {node or ''} on this machine".replace("  ", " "),
        code="node_not_found",
        hint=f"consuming nodes here: {names}",
    )


def _attach(
    cluster: Cluster, volume: dict[str, Any], node: str, kind: str, *, read_only: bool
) -> dict[str, Any]:
    from drystone_storaged.proto import block_pb2  # noqa: PLC0415 - gRPC is slow to import

    request = block_pb2.AttachRequest(
        volume_id=volume["id"],
        mode=block_pb2.MODE_READ_ONLY if read_only else block_pb2.MODE_READ_WRITE,
        attacher=_KINDS[kind],  # type: ignore[arg-type]
    )
    probe = block_pb2.InfoRequest()
    _call(cluster.block[node], node, lambda stub: stub.Info(probe, timeout=PROBE_S))
    made = _call(cluster.block[node], node, lambda stub: stub.Attach(request, timeout=ATTACH_S))
    return {
        "volume": volume["name"],
        "generation": made.generation,
        "node": node,
        "device": made.device or None,
        "nbd_uri": made.nbd_uri,
    }


def _detach(cluster: Cluster, volume: dict[str, Any], node: str, *, force: bool) -> bool:
    """Gives whether the node's daemon had it."""
    from drystone_storaged.proto import block_pb2  # noqa: PLC0415 - gRPC is slow to import

    request = block_pb2.DetachRequest(volume_id=volume["id"], force=force)
    limit_s = FORCE_S if force else ATTACH_S
    which = block_pb2.ListRequest(volume_id=volume["id"])
    probe_s = FORCE_PROBE_S if force else PROBE_S
    try:
        found = _call(cluster.block[node], node, lambda stub: stub.List(which, timeout=probe_s))
        _call(cluster.block[node], node, lambda stub: stub.Detach(request, timeout=limit_s))
    except (UnavailableError, DeadlineError):
        if not force:
            raise
        say(f"{node} does not answer: it is fenced")
        return False
    return bool(found.attachments)


@contextmanager
def _next_step(volume: dict[str, Any], node: str) -> Iterator[None]:
    """Say the next step as a command of this program where the API can only name the call."""
    elsewhere = [p["node"] for p in volume["publications"] if p["node"] != node]
    steps = {
        "volume_published_elsewhere": elsewhere,
        "volume_mode_conflict": elsewhere or [node],
        "volume_attached": elsewhere,
        "attached_otherwise": [node],
        "volume_fenced": [node],
    }
    try:
        yield
    except ConflictError as error:
        holders = steps.get(error.code)
        if not holders:
            raise
        command = f"drystone volume detach {volume['name']} --node {holders[0]}"
        hint = f"detach it first: `{command}`"
        raise type(error)(error.message, code=error.code, hint=hint) from error


def _silent(node: str) -> UnavailableError:
    return UnavailableError(
        f"the block daemon of {node} does not answer",
        code="block_silent",
        hint=f"see `drystone local status`, wake or start it with `drystone local start {node}`; "
        "`drystone volume detach --force` fences it without its help",
    )


def _call(socket: str, node: str, call: Callable[[Any], Awaitable[_T]]) -> _T:
    import grpc  # noqa: PLC0415 - slow to import, and few commands need it

    from drystone_storaged.agent.status import (  # noqa: PLC0415 - as above
        CODE_METADATA,
        error_of,
    )
    from drystone_storaged.proto import block_pb2_grpc  # noqa: PLC0415 - as above

    async def work() -> _T:
        async with grpc.aio.insecure_channel(f"unix://{socket}") as channel:
            try:
                return await call(block_pb2_grpc.BlockStub(channel))
            except grpc.aio.AioRpcError as error:
                found: DrystoneError = error_of(error, f"block daemon of {node}")
                # A code is the daemon's own word; without one nobody spoke.
                spoke = any(key == CODE_METADATA for key, _ in error.trailing_metadata() or ())
                if isinstance(found, UnavailableError | DeadlineError) and not spoke:
                    found = _silent(node)
                raise found from error

    return asyncio.run(work())
