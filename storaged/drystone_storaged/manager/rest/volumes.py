"""`/v1/volumes`."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Query, Request, Response

from drystone_common.errors import InvalidArgumentError
from drystone_storaged.cluster.records import AttachMode, Volume
from drystone_storaged.cluster.volumes import VolumeSpec
from drystone_storaged.manager.notify import tell_changed, tell_revoked
from drystone_storaged.manager.rest import models
from drystone_storaged.manager.rest.guard import OPERATE, READ
from drystone_storaged.manager.services import Services
from drystone_storaged.manager.status import count_states, pg_counts, volume_json

router = APIRouter(prefix="/v1/volumes", tags=["volumes"])
Json = dict[str, Any]
CURSOR_BYTES: Final = 8  # a volume id
Limit = Annotated[int, Query(ge=1, le=1000)]


def services_of(request: Request) -> Services:
    """The manager's services."""
    found: Services = request.app.state.services
    return found


async def shown(services: Services, volume: Volume) -> Json:
    """A volume with its pool's name and its use."""
    state = services.feed.latest() or await services.feed.read()
    if volume.pool not in state.pools:
        state = await services.feed.read()
    pool = state.pools.get(volume.pool)
    return volume_json(volume, pool.name if pool else "", services.status.used(volume))


@router.post("", dependencies=[OPERATE], status_code=201)
async def create(body: models.VolumeCreate, request: Request, response: Response) -> Json:
    """Make a volume; 200 when it is there with the same properties."""
    services = services_of(request)
    spec = VolumeSpec(body.name, body.size, body.pool, body.attributes)
    volume, created = await services.volumes.create(spec)
    response.status_code = 201 if created else 200
    return await shown(services, volume)


@router.get("", dependencies=[READ])
async def list_volumes(
    request: Request, limit: Limit = 100, cursor: Annotated[str | None, Query(max_length=64)] = None
) -> Json:
    """Volumes by id; the cursor means "after this id" and outlives the volume."""
    services = services_of(request)
    volumes, more = await services.volumes.list(_after(cursor), limit)
    return {
        "items": [await shown(services, volume) for volume in volumes],
        "next_cursor": _cursor(volumes[-1].id) if more and volumes else None,
    }


@router.get("/{which}", dependencies=[READ])
async def show(which: str, request: Request) -> Json:
    """One volume, with the states of its pool's PGs."""
    services = services_of(request)
    volume = await services.volumes.find(which)
    state = await services.feed.read()
    body = await shown(services, volume)
    pool = state.pools.get(volume.pool)
    body["pgs"] = pg_counts(count_states(state, [pool] if pool else []))
    return body


@router.patch("/{which}", dependencies=[OPERATE])
async def resize(which: str, body: models.VolumeResize, request: Request) -> Json:
    """Grow a volume."""
    services = services_of(request)
    number = await services.volumes.resolve(which)
    volume = await services.volumes.resize(number, body.size)
    tell_changed(services.sessions, volume)
    return await shown(services, volume)


@router.delete("/{which}", dependencies=[OPERATE], status_code=204)
async def delete(which: str, request: Request) -> None:
    """Remove a volume that is not in use."""
    services = services_of(request)
    await services.volumes.delete(await services.volumes.resolve(which))
    services.wake_orders.ring()


@router.post("/{which}/publish", dependencies=[OPERATE])
async def publish(which: str, body: models.Publish, request: Request) -> Json:
    """Allow a node to attach."""
    services = services_of(request)
    number = await services.volumes.resolve(which)
    await services.volumes.get(number)
    await services.nodes.find(body.node)
    await services.fence.publish(number, body.node, AttachMode(body.mode))
    return {"node": body.node, "mode": body.mode}


@router.post("/{which}/unpublish", dependencies=[OPERATE])
async def unpublish(
    which: str, request: Request, body: Annotated[models.Unpublish | None, Body()] = None
) -> Json:
    """Take a volume away from a node: after success that node cannot write any more."""
    services = services_of(request)
    before = await services.volumes.find(which)
    node = body.node if body else None
    after = await services.fence.unpublish(
        before.id, node, on_fenced=lambda v: tell_revoked(services.sessions, before, v)
    )
    return await shown(services, after)


@router.post("/{which}/fence", dependencies=[OPERATE])
async def fence(
    which: str, request: Request, body: Annotated[models.FenceBody | None, Body()] = None
) -> Json:
    """Shut out attachments, proven; a name of a newer owner is never hit by a repeated call."""
    services = services_of(request)
    before = await services.volumes.find(which)
    wanted = body or models.FenceBody()
    after = await services.fence.fence(
        before.id,
        nonce=int(wanted.nonce, 16) if wanted.nonce else None,
        generation=wanted.generation,
        node=wanted.node,
        on_fenced=lambda v: tell_revoked(services.sessions, before, v),
    )
    return await shown(services, after)


@router.post("/{which}/content", dependencies=[OPERATE])
async def content(which: str, body: models.ContentChange, request: Request) -> Json:
    """Compare-and-set the content state."""
    services = services_of(request)
    number = await services.volumes.resolve(which)
    volume = await services.volumes.set_content(number, body.expect.record(), body.to.record())
    return await shown(services, volume)


def _cursor(after: int) -> str:
    return base64.urlsafe_b64encode(after.to_bytes(8, "big")).decode()


def _after(cursor: str | None) -> int:
    if not cursor:
        return 0
    try:
        raw = base64.b64decode(cursor.encode("ascii"), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    if len(raw) != CURSOR_BYTES:
        raise InvalidArgumentError(
            "the cursor is not one of ours",
            code="invalid_cursor",
            hint="begin without a cursor",
        )
    return int.from_bytes(raw, "big")
