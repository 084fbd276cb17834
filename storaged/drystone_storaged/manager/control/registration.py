"""Register and Session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import grpc

from drystone_common.errors import DrystoneError, InvalidArgumentError, UnauthenticatedError
from drystone_common.logs import get_logger
from drystone_storaged.cluster.nodes import Registration, Role
from drystone_storaged.cluster.records import Node
from drystone_storaged.manager.control.context import (
    TEXT_MAX,
    UUID_BYTES,
    Context,
    authenticate,
    bearer,
    refuse,
    unary,
)
from drystone_storaged.manager.control.credentials import Peer
from drystone_storaged.manager.control.sessions import Session
from drystone_storaged.manager.services import Services
from drystone_storaged.proto import control_pb2 as pb

log = get_logger(__name__)

HELLO_S: Final = 5.0  # a peer that connects and says nothing holds a stream no longer


class RegistrationCalls:
    """Mixin of the servicer."""

    _services: Services

    @unary
    async def Register(self, request: pb.RegisterRequest, context: Context) -> pb.RegisterResponse:  # noqa: N802
        """Bind or confirm a node."""
        services = self._services
        role, node = _checked(request)
        if request.cluster and request.cluster != _cluster(services):
            raise InvalidArgumentError(
                "the caller belongs to another cluster",
                code="wrong_cluster",
                hint="check the manager's address, or remove the state folder",
            )
        credential = bearer(context)
        known = bool(credential) and services.credentials.check(credential) == Peer(role, node.uuid)
        if credential and not known:
            raise UnauthenticatedError("the credential names another process")
        served = await services.nodes.served(node.name) if role == "beacon" else node
        await services.nodes.register(Registration(role, node, request.join_token, known))
        if role == "beacon":
            await services.nodes.listens(served, node.beacon_addr)
        if role != "client":
            await services.voters.registered()
        answer = await _welcome(services, role, node)
        answer.node = bytes.fromhex(served.uuid) if role == "beacon" else b""
        return answer

    async def Session(  # noqa: N802
        self, requests: AsyncIterator[pb.SessionUp], context: Context
    ) -> AsyncIterator[pb.SessionDown]:
        """Commands down, reports up, for as long as the process lives."""
        services = self._services
        try:
            services.leadership.require()
            peer, node = await authenticate(services, context)
            hello = await _hello(requests)
            if peer.role == "server":
                await services.heard_of_store(hello.incarnation, hello.highest_revision, node.name)
            # A beacon is known by the node for which it speaks.
            spoken_for = await services.nodes.served(node.name) if peer.role == "beacon" else node
            # Again, with nothing awaited before it stands: a standby must never have a session.
            services.leadership.require()
            key = (peer.role, spoken_for.uuid)
            session = services.sessions.open(key, node.name, hello.instance)
        except DrystoneError as error:
            await refuse(services, context, error)
        reader = asyncio.create_task(_read(services, session, requests))
        try:
            yield await _session_welcome(services, peer.role)
            if peer.role != "client":
                yield await services.silence.suspects_message()
                if peer.role == "server":
                    yield await services.devices.message(session.key[1])
                services.sessions.replay(session)
            async for message in session.messages():
                yield message
        finally:
            reader.cancel()
            if services.sessions.close(session):
                _ended(services, session)


def _checked(request: pb.RegisterRequest) -> tuple[Role, Node]:
    roles: dict[int, Role] = {
        pb.ROLE_SERVER: "server", pb.ROLE_CLIENT: "client", pb.ROLE_BEACON: "beacon"
    }  # fmt: skip
    role = roles.get(request.role)
    texts = (request.version, request.fault_set, request.beacon_addr)
    if (
        role is None
        or len(request.uuid) != UUID_BYTES
        or any(len(text) > TEXT_MAX for text in texts)
    ):
        raise InvalidArgumentError(
            "a registration needs a role, a uuid of 16 bytes and short texts"
        )
    return role, Node(
        request.name, request.uuid.hex(), request.version, request.fault_set,
        request.beacon_addr, request.feature_level or 1, request.page_instance,
    )  # fmt: skip


def _cluster(services: Services) -> bytes:
    return bytes.fromhex(services.env.cluster.uuid.replace("-", ""))


async def _welcome(services: Services, role: Role, node: Node) -> pb.RegisterResponse:
    env = services.env
    state = await services.feed.read()
    uuid = bytes.fromhex(node.uuid)
    return pb.RegisterResponse(
        cluster=_cluster(services),
        incarnation=state.incarnation,
        feature_level=state.feature_level,
        credential=services.credentials.issue(Peer(role, node.uuid)),
        key_epoch=env.cluster.key_epoch,
        master_key=env.master if role != "client" else b"",
        role_key=env.native.role_key(env.master, role, uuid, env.cluster.key_epoch),
        map_revision=state.revision,
    )


async def _hello(requests: AsyncIterator[pb.SessionUp]) -> pb.Hello:
    try:
        async with asyncio.timeout(HELLO_S):
            first = await anext(requests)
    except (TimeoutError, StopAsyncIteration):
        raise InvalidArgumentError("a session begins with Hello", code="hello_missing") from None
    if first.WhichOneof("kind") != "hello" or not first.hello.instance:
        raise InvalidArgumentError("a session begins with Hello", code="hello_missing")
    return first.hello


async def _session_welcome(services: Services, role: Role) -> pb.SessionDown:
    state = await services.feed.read()
    if role != "client":
        return await services.voters.welcome(state.revision)
    return pb.SessionDown(
        welcome=pb.Welcome(manager=services.env.name, map_revision=state.revision)
    )


async def _read(
    services: Services, session: Session, requests: AsyncIterator[pb.SessionUp]
) -> None:
    """Take what the process sends; the session ends with its stream."""
    try:
        async for message in requests:
            kind = message.WhichOneof("kind")
            if kind == "result":
                services.sessions.answered(session.key, message.result)
            elif kind == "status" and session.key[0] == "server":
                await _status(services, session, message.status)
            elif kind == "devices" and session.key[0] == "server":
                services.devices.reports.report(session.key[1], message.devices)
            elif kind == "wanted" and session.key[0] == "server":
                services.devices.reports.report_wanted(session.key[1], message.wanted)
    except (grpc.RpcError, grpc.aio.UsageError):
        log.info("a session broke", node=session.name)
    except DrystoneError as error:
        log.warning("a report was not taken", node=session.name, reason=str(error))
    finally:
        session.end()


async def _status(services: Services, session: Session, status: pb.Status) -> None:
    state = services.feed.latest() or await services.feed.read()
    own = {d.id for d in state.drives.values() if d.node == session.key[1]}
    for drive in status.drives:
        if drive.drive in own:
            services.stats.report(drive)
            if (work := services.slow.report(drive.drive, state)) is not None:
                services.spawn(work, "a slow drive")
    figures: dict[int, dict[int, int]] = {drive: {} for drive in own}
    if status.HasField("refused"):
        services.refusals.report(session.key[1], status.refused)
    for layer in status.layers:
        if layer.drive in own:
            figures[layer.drive][layer.layer] = layer.mapped_bytes
    for number, layers in figures.items():
        services.usage.report(number, layers, complete=status.layers_complete)


def _ended(services: Services, session: Session) -> None:
    """A server's session ended: look at once whether its process is dead."""
    log.info("session ended", node=session.name, role=session.key[0])
    if session.key[0] == "server":
        services.refusals.forget(session.key[1])
        services.devices.reports.forget(session.key[1])
        services.spawn(_forget_usage(services, session.key[1]), "usage after a session")
        services.spawn(services.judge.check_process(session.key[1]), "probe after a session")


async def _forget_usage(services: Services, node: str) -> None:
    # Its next session tells everything; until then others may be first in sync in its place.
    state = services.feed.latest() or await services.feed.read()
    if services.sessions.get(("server", node)) is None:
        for drive in state.drives.values():
            if drive.node == node:
                services.usage.forget(drive.id)
