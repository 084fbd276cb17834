"""OpenDrive, ReportDrive, LeavePg, CopyComplete, RenewEpochs, ReportFailure, ReportSilence."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from drystone_common.errors import InvalidArgumentError
from drystone_common.logs import get_logger
from drystone_storaged.cluster.drives import OpenRequest
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.membership_service import Evidence
from drystone_storaged.cluster.records import DriveState
from drystone_storaged.manager import holders
from drystone_storaged.manager.control.context import (
    SILENT_MAX,
    TEXT_MAX,
    UUID_BYTES,
    Context,
    authenticate,
    authorize,
    beacon_of,
    unary,
)
from drystone_storaged.manager.devices import CLASSES
from drystone_storaged.manager.services import Services
from drystone_storaged.proto import control_pb2 as pb

log = get_logger(__name__)

PGS_MAX: Final = 8192  # of one call: every PG of the largest pool
RENEWED_MAX: Final = 1024  # as many as a server tells at once: each is a new epoch for its clients
ORDERS_MAX: Final = 10_000  # of one answer; the rest comes as commands


class DriveCalls:
    """Mixin of the servicer."""

    _services: Services

    @unary
    async def OpenDrive(  # noqa: N802
        self, request: pb.OpenDriveRequest, context: Context
    ) -> pb.OpenDriveResponse:
        """Take a drive into use."""
        services = self._services
        node = await authorize(services, context, "server")
        texts = (request.addr, request.device)
        if {len(request.uuid), len(request.cluster)} != {UUID_BYTES} or any(
            len(text) > TEXT_MAX for text in texts
        ):
            raise InvalidArgumentError(
                "a drive has a uuid and a cluster of 16 bytes, a short address"
            )
        wanted = OpenRequest(
            str(UUID(bytes=request.uuid)), request.serial, request.nonce, request.previous_nonce,
            request.capacity_bytes, request.addr, request.incarnation, request.highest_revision,
            str(UUID(bytes=request.cluster)), device=request.device,
            drive_class=request.device_class if request.device_class in CLASSES else "",
        )  # fmt: skip
        if wanted.cluster == services.env.cluster.uuid:
            await services.heard_of_store(wanted.incarnation, wanted.highest_revision, node.name)
        held = await holders.look(services, node, wanted)
        opened = await services.drives.open(node, wanted, held)
        state = await services.feed.read()
        number = opened.drive.id
        pools = {
            ref.pool
            for ref, pg in state.known_pgs().items()
            if number in (*pg.members(), *pg.target) or pg.out_since(number)
        } | state.unreadable_pools
        orders = await services.orders.pending(number, pools)
        return pb.OpenDriveResponse(
            drive=number,
            map_revision=state.revision,
            store_revision=opened.store_revision,
            orders=[
                pb.FreeLayer(order=o.id, pool=o.pool, layer=o.layer, drives=[number])
                for o in orders[:ORDERS_MAX]
            ],
        )

    @unary
    async def ReportDrive(self, request: pb.ReportDriveRequest, context: Context) -> pb.Ack:  # noqa: N802
        """A drive is ready, broken or closed."""
        services = self._services
        node = await authorize(services, context, "server")
        if request.state not in (
            pb.DRIVE_STATE_READY, pb.DRIVE_STATE_FAILED, pb.DRIVE_STATE_CLOSED
        ):  # fmt: skip
            raise InvalidArgumentError("a report needs a state")
        ready = request.state == pb.DRIVE_STATE_READY
        state = DriveState.UP if ready else DriveState.DOWN
        closed = "closed" if request.state == pb.DRIVE_STATE_CLOSED else "failed"
        reason = "" if ready else request.reason[:200] or closed
        await services.drives.report(
            node, request.drive, request.nonce, state, reason,
            needed=ready and await _is_needed(services, request.drive),
        )  # fmt: skip
        if not ready:
            await services.judge.drive_ended(request.drive, reason)
        return pb.Ack(map_revision=(await services.feed.read()).revision)

    @unary
    async def LeavePg(self, request: pb.LeavePgRequest, context: Context) -> pb.LeavePgResponse:  # noqa: N802
        """A drive leaves PGs on its own wish."""
        services = self._services
        node = await authorize(services, context, "server")
        same_open = await services.drives.holds(node, request.drive, request.nonce)
        listed = _refs(request.pgs)
        evidence = Evidence(request.reason or "left", services.env.monotonic())
        done = await services.judge.left(
            request.drive,
            request.nonce,
            frozenset(listed),
            evidence,
            same_open,
            blank=request.blank,
            joining=request.joining,
        )
        services.joins.hold_back(request.drive)
        return pb.LeavePgResponse(
            map_revision=done.revision, refused=[pb.Pg(pool=r.pool, pg=r.pg) for r in done.refused]
        )

    @unary
    async def CopyComplete(  # noqa: N802
        self, request: pb.CopyCompleteRequest, context: Context
    ) -> pb.CopyCompleteResponse:
        """Promote joiners whose copy is complete."""
        services = self._services
        node = await authorize(services, context, "server")
        await services.drives.check(node, request.drive, request.nonce)
        listed = _refs(request.pgs)
        done = await services.promotions.promote(request.drive, list(listed.items()))
        return pb.CopyCompleteResponse(
            map_revision=done.revision, refused=[pb.Pg(pool=r.pool, pg=r.pg) for r in done.refused]
        )

    @unary
    async def RenewEpochs(self, request: pb.RenewEpochsRequest, context: Context) -> pb.Ack:  # noqa: N802
        """A drive answers no reads, as it promised, and was not dropped."""
        services = self._services
        node = await authorize(services, context, "server")
        listed = _refs(request.pgs, RENEWED_MAX)
        await services.drives.check(node, request.drive, request.nonce)
        done = await services.membership.renew(request.drive, listed)
        if done.changed:
            log.warning("promises led to no drop", drive=request.drive, pgs=len(done.changed))
        return pb.Ack(map_revision=done.revision)

    @unary
    async def ReportFailure(self, request: pb.ReportFailureRequest, context: Context) -> pb.Ack:  # noqa: N802
        """Somebody complains about a drive: looked at beside the call."""
        services = self._services
        _, reporter = await authenticate(services, context)
        key = (request.drive, request.kind)
        if services.reports.admit(key, services.env.monotonic()):
            services.spawn(
                services.judge.client_report(
                    request.drive, request.kind, request.drive_nonce, reporter
                ),
                "failure report",
            )
        return pb.Ack()

    @unary
    async def ReportSilence(self, request: pb.ReportSilenceRequest, context: Context) -> pb.Ack:  # noqa: N802
        """A beacon's view."""
        node = await beacon_of(self._services, context)
        silent = [uuid.hex() for uuid in request.silent[:SILENT_MAX] if len(uuid) == UUID_BYTES]
        self._services.voters.reported(node.uuid, request.voters_version)
        await self._services.silence.report(node.uuid, silent)
        return pb.Ack()


async def _is_needed(services: Services, drive: int) -> bool:
    """Whether placement groups count on a drive that could not be dropped from them."""
    if not (health := services.health.known.get(drive)) or not health.out:
        return False
    pgs = (await services.feed.read()).known_pgs()
    return any(drive in record.insync for record in pgs.values())


def _refs(pgs: object, most: int = PGS_MAX) -> dict[PgRef, int]:
    listed: list[pb.Pg] = list(pgs)  # type: ignore[call-overload]
    if len(listed) > most:
        raise InvalidArgumentError(f"at most {most} PGs in one call", code="too_many_pgs")
    return {PgRef(pg.pool, pg.pg): pg.epoch for pg in listed}
