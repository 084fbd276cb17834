"""Attach and detach from the command line: publish at the manager, then ask the block daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from drystone_cli.context import Cluster
from drystone_cli.output import say
from drystone_common.errors import (
    DeadlineError,
    DrystoneError,
    NotFoundError,
    UnavailableError,
)
from drystone_storaged.agent.rest import Rest, segment

ATTACH_S: Final = 90.0  # a fail-over takes seconds; the daemon itself gives up before this
PROBE_S: Final = 1.0
"""A daemon that does not say who it is in this time is frozen or dead: the fence does not need
it."""

FORCE_S: Final = 10.0  # the daemon's own bound for a forced detach is a little less

_T = TypeVar("_T")
_KINDS: Final = {"auto": 0, "nbd": 1, "fuse": 2, "export": 3}


def attach(
    cluster: Cluster, name: str, node: str | None, kind: str, *, read_only: bool
) -> dict[str, Any]:
    """Publish and attach; repeating it gives the same."""
    chosen = _node(cluster, node)
    with Rest(cluster.url, cluster.token) as rest:
        volume = rest.get(f"/v1/volumes/{segment(name)}")
        mode = "ro" if read_only else "rw"
        rest.post(f"/v1/volumes/{volume['id']}/publish", {"node": chosen, "mode": mode})
        return _attach(cluster, volume, chosen, kind, read_only=read_only)


def detach(cluster: Cluster, name: str, node: str | None, *, force: bool) -> list[str]:
    """Detach from one node or from all; the unpublish fences whoever did not answer."""
    with Rest(cluster.url, cluster.token) as rest:
        volume = rest.get(f"/v1/volumes/{segment(name)}")
        found = {p["node"] for p in volume["publications"]}
        found |= {a["node"] for a in volume["attachments"]}
        nodes = [node] if node else sorted(found)
        for each in nodes:
            if each in cluster.block:
                _detach(cluster, volume, each, force=force)
            elif not force and any(a["node"] == each for a in volume["attachments"]):
                raise NotFoundError(
                    f"node {each} is not on this machine",
                    code="node_elsewhere",
                    hint="detach it there, or use --force to fence it",
                )
            rest.post(f"/v1/volumes/{volume['id']}/unpublish", {"node": each})
        return nodes


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
    made = _call(cluster.block[node], lambda stub: stub.Attach(request, timeout=ATTACH_S))
    return {
        "volume": volume["name"],
        "generation": made.generation,
        "node": node,
        "device": made.device or None,
        "nbd_uri": made.nbd_uri,
    }


def _detach(cluster: Cluster, volume: dict[str, Any], node: str, *, force: bool) -> None:
    from drystone_storaged.proto import block_pb2  # noqa: PLC0415 - gRPC is slow to import

    request = block_pb2.DetachRequest(volume_id=volume["id"], force=force)
    limit_s = FORCE_S if force else ATTACH_S
    try:
        if force:
            probe = block_pb2.InfoRequest()
            _call(cluster.block[node], lambda stub: stub.Info(probe, timeout=PROBE_S))
        _call(cluster.block[node], lambda stub: stub.Detach(request, timeout=limit_s))
    except (UnavailableError, DeadlineError) as error:
        if not force:
            raise _gone(node, error) from error
        say(f"{node} does not answer ({error.code}): it is fenced")


def _gone(node: str, error: DrystoneError) -> DrystoneError:
    return type(error)(
        error.message,
        code=error.code,
        hint=error.hint or f"start it with `drystone local start {node}`, or use --force",
    )


def _call(socket: str, call: Callable[[Any], Awaitable[_T]]) -> _T:
    import grpc  # noqa: PLC0415 - slow to import, and few commands need it

    from drystone_storaged.agent.status import error_of  # noqa: PLC0415 - as above
    from drystone_storaged.proto import block_pb2_grpc  # noqa: PLC0415 - as above

    async def work() -> _T:
        async with grpc.aio.insecure_channel(f"unix://{socket}") as channel:
            try:
                return await call(block_pb2_grpc.BlockStub(channel))
            except grpc.aio.AioRpcError as error:
                raise error_of(error, "block daemon") from error

    return asyncio.run(work())
