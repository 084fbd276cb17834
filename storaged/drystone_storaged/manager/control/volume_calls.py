"""Reads of map, generations and volumes, and the attach transactions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import grpc

from drystone_common.errors import DataError, DrystoneError, InvalidArgumentError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.attach import Attached
from drystone_storaged.cluster.codec import decode
from drystone_storaged.cluster.leadership import not_leader
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.records import AttachMode, AttachState, Volume
from drystone_storaged.manager.control.context import (
    Context,
    authenticate,
    authorize,
    client,
    refuse,
    unary,
)
from drystone_storaged.manager.control.statuses import abort
from drystone_storaged.manager.services import Services
from drystone_storaged.proto import control_pb2 as pb

GENERATIONS_PAGE: Final = 4096  # entries of one answer: under 200 KiB
REVISION_MAX: Final = 2**62  # larger numbers are no revisions; SQLite's integers end at 2^63
MODES: Final = {
    pb.MODE_READ_WRITE: AttachMode.READ_WRITE,
    pb.MODE_READ_ONLY: AttachMode.READ_ONLY,
}


class VolumeCalls:
    """Mixin of the servicer."""

    _services: Services

    async def MapStream(  # noqa: N802
        self, request: pb.MapStreamRequest, context: Context
    ) -> AsyncIterator[pb.MapUpdate]:
        """The map, then each newer one."""
        leadership = self._services.leadership
        try:
            leadership.require()
            await authenticate(self._services, context)
            leadership.require()
        except DrystoneError as error:
            await refuse(self._services, context, error)
        async for state in self._services.feed.follow(request.have_revision):
            yield self._update(state)
        await abort(context, not_leader())

    @unary
    async def ReadMap(self, request: pb.ReadMapRequest, context: Context) -> pb.MapUpdate:  # noqa: N802
        """The map as of now."""
        await authenticate(self._services, context)
        state = await self._services.feed.read()
        if state.revision == request.have_revision:
            return pb.MapUpdate(revision=state.revision)
        try:
            return self._update(state)
        except DataError as error:
            # It asks again, and here: any other status ends a daemon or sends it away for nothing.
            said = (("drystone-code", error.code),)
            await context.abort(grpc.StatusCode.ABORTED, error.message, said)
            raise AssertionError from error  # abort raised already; for the type checker

    def _update(self, state: MapState) -> pb.MapUpdate:
        return pb.MapUpdate(revision=state.revision, map=self._services.feed.encoded(state))

    @unary
    async def ReadGenerations(  # noqa: N802
        self, request: pb.ReadGenerationsRequest, context: Context
    ) -> pb.ReadGenerationsResponse:
        """Generations that changed after a revision."""
        await authorize(self._services, context, "server")
        since = min(request.since_revision, REVISION_MAX)
        after = keys.volume(request.after_volume) if request.after_volume else ""
        page = await self._services.env.store.range(
            keys.VOLUMES, after=after, limit=GENERATIONS_PAGE, min_mod_revision=since + 1
        )
        volumes = [decode(Volume, item.value) for item in page.items]
        answer = pb.ReadGenerationsResponse(
            revision=request.first_revision or page.revision, more=page.more
        )
        for volume in volumes:
            if request.pool in _pools(volume):
                answer.entries.add(
                    volume=volume.id, generation=volume.generation, nonce=volume.owner
                )
        # The cursor is the last volume that was looked at, also when it is of another pool.
        answer.last_volume = volumes[-1].id if volumes else request.after_volume
        return answer

    @unary
    async def ReadVolume(self, request: pb.ReadVolumeRequest, context: Context) -> pb.VolumeInfo:  # noqa: N802
        """One volume."""
        services = self._services
        peer, _ = await authenticate(services, context)
        by_name = request.WhichOneof("which") == "name"
        number = await services.volumes.resolve(request.name) if by_name else request.id
        volume, stored = await services.volumes.get(number)
        own = [a for a in volume.attachments if peer.role == "server" or a.client == peer.uuid]
        return pb.VolumeInfo(
            id=volume.id, name=volume.name, size_bytes=volume.size, pool=volume.pool,
            generation=volume.generation, owner_nonce=volume.owner if own else 0,
            clean=volume.clean, revision=stored.mod_revision,
            attachments=[
                pb.AttachmentInfo(
                    nonce=a.nonce, node=a.node, active=a.state is AttachState.ACTIVE,
                    mode=pb.MODE_READ_WRITE
                    if a.mode is AttachMode.READ_WRITE
                    else pb.MODE_READ_ONLY,
                )
                for a in own
            ],
        )  # fmt: skip

    @unary
    async def Attach(self, request: pb.AttachRequest, context: Context) -> pb.AttachResponse:  # noqa: N802
        """A1."""
        caller = await client(self._services, context)
        mode = MODES.get(request.mode)
        if mode is None:
            raise InvalidArgumentError("an attach needs a mode")
        state = await self._services.feed.read()
        if state.unreadable_pools:
            volume, _ = await self._services.volumes.get(request.volume)
            state.require(_pools(volume))
        done = await self._services.attach.attach(caller, request.volume, mode, request.nonce)
        return await self._attached(done)

    @unary
    async def Activate(self, request: pb.ActivateRequest, context: Context) -> pb.Ack:  # noqa: N802
        """A5."""
        caller = await client(self._services, context)
        await self._services.attach.activate(
            caller, request.volume, request.generation, request.nonce
        )
        return pb.Ack()

    @unary
    async def Detach(self, request: pb.DetachRequest, context: Context) -> pb.Ack:  # noqa: N802
        """Give an attachment back; a volume that is gone has none."""
        caller = await client(self._services, context)
        try:
            await self._services.attach.detach(
                caller, request.volume, request.nonce, clean=request.clean
            )
        except DrystoneError as error:
            if error.code != "volume_not_found":
                raise
        return pb.Ack()

    @unary
    async def ReAdopt(self, request: pb.ReAdoptRequest, context: Context) -> pb.AttachResponse:  # noqa: N802
        """After a restart of the block daemon."""
        caller = await client(self._services, context)
        nonces = tuple(request.nonces[:64])
        done = await self._services.attach.readopt(
            caller, request.volume, nonces, request.new_nonce
        )
        return await self._attached(done)

    @unary
    async def ReadTicket(  # noqa: N802
        self, request: pb.ReadTicketRequest, context: Context
    ) -> pb.TicketResponse:
        """The newest ticket."""
        caller = await client(self._services, context)
        found = await self._services.attach.ticket(caller, request.volume, request.nonce)
        volume = found.volume
        return pb.TicketResponse(
            ticket=found.ticket, ticket_serial=volume.ticket_serial, size_bytes=volume.size,
            generation=volume.generation, owner_nonce=volume.owner,
            needs_recovery=found.needs_recovery,
        )  # fmt: skip

    async def _attached(self, done: Attached) -> pb.AttachResponse:
        # Read after the transaction: the attacher must not seal by an older map (A1).
        state = await self._services.feed.read()
        return pb.AttachResponse(
            generation=done.volume.generation, ticket=done.ticket, map_revision=state.revision,
            owner_nonce=done.volume.owner, needs_recovery=done.needs_recovery,
            size_bytes=done.volume.size, name=done.volume.name,
        )  # fmt: skip


def _pools(volume: Volume) -> set[int]:
    """Pools whose drives may be asked about this volume: its own and its ancestors'."""
    return {volume.pool, *(parent.pool for parent in volume.parents)}
