"""What every call of the control channel goes through: who calls, may they, errors as statuses."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, Final, NoReturn, TypeVar

import grpc

from drystone_common.errors import DeniedError, DrystoneError, UnauthenticatedError
from drystone_common.logs import get_logger
from drystone_storaged.cluster.attach import Caller
from drystone_storaged.cluster.nodes import Role
from drystone_storaged.cluster.records import Node
from drystone_storaged.manager.control.credentials import Peer
from drystone_storaged.manager.control.statuses import abort
from drystone_storaged.manager.services import Services

log = get_logger(__name__)

UUID_BYTES: Final = 16
TEXT_MAX: Final = 256  # versions, addresses, fault sets: the map takes no longer ones
SILENT_MAX: Final = 1024  # nodes of one report; a cluster has 63

Context = grpc.aio.ServicerContext[Any, Any]
Result = TypeVar("Result")
Method = Callable[[Any, Any, Context], Awaitable[Result]]


def unary(method: Method[Result]) -> Method[Result]:
    """Turn typed errors of a call into statuses; anything else is a defect and says nothing."""

    @functools.wraps(method)
    async def wrapped(self: Any, request: Any, context: Context) -> Result:
        try:
            # A standby knows neither sessions nor figures: the caller goes on to the next manager.
            self._services.leadership.require()
            return await method(self, request, context)
        except DrystoneError as error:
            await refuse(self._services, context, error)
        except grpc.aio.AbortError:
            raise
        except Exception:
            log.exception("a control call failed", method=method.__name__)
            self._services.tally.refused("control", "internal")
            await abort(context, DrystoneError("internal error", code="internal"))

    return wrapped


async def refuse(services: Services, context: Context, error: DrystoneError) -> NoReturn:
    """End a call with this error, and count it."""
    services.tally.refused_call("control", error, context.peer())
    await abort(context, error)


async def authenticate(services: Services, context: Context) -> tuple[Peer, Node]:
    """The caller by its credential; one that was forgotten is nobody."""
    peer = services.credentials.check(bearer(context))
    node = await services.nodes.by_uuid(peer.role, peer.uuid)
    if node is None:
        raise UnauthenticatedError(
            "this node was forgotten",
            code="node_forgotten",
            hint="register it again with a join token",
        )
    return peer, node


async def authorize(services: Services, context: Context, role: Role) -> Node:
    """The caller, who must have this role."""
    peer, node = await authenticate(services, context)
    if peer.role != role:
        raise DeniedError(f"this call is for a {role}", code="wrong_role")
    return node


async def beacon_of(services: Services, context: Context) -> Node:
    """The storage node for which a beacon calls: a process of its own, or inside the server."""
    peer, node = await authenticate(services, context)
    if peer.role == "beacon":
        return await services.nodes.served(node.name)
    if peer.role != "server":
        raise DeniedError("this call is for a beacon", code="wrong_role")
    return node


async def client(services: Services, context: Context) -> Caller:
    """The calling block daemon."""
    node = await authorize(services, context, "client")
    return Caller(node.uuid, node.name)


def bearer(context: Context) -> str:
    """The credential of a call; empty if there is none."""
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str) and value.startswith("Bearer "):
            return value.removeprefix("Bearer ")
    return ""
