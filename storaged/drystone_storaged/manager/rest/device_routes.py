"""`/v1/nodes/{name}/devices` and `/v1/nodes/{name}/drives`."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request, Response

from drystone_common.errors import NotFoundError
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.records import DriveState, Node, WantedDrive
from drystone_storaged.manager.devices import Device, Progress
from drystone_storaged.manager.rest import models
from drystone_storaged.manager.rest.guard import ADMIN, READ
from drystone_storaged.manager.rest.volumes import Json, services_of
from drystone_storaged.manager.services import Services

router = APIRouter(prefix="/v1/nodes", tags=["devices"])


@router.get("/{name}/devices", dependencies=[READ])
async def devices(name: str, request: Request, *, look: bool = False) -> Json:
    """What a node has that could be a drive; `look` lets its server look first."""
    services = services_of(request)
    node = await _server(services, name)
    if look:
        await services.devices.look(node)
    known = await services.devices.devices(node, await services.feed.read())
    wanted = {d.device: (d, p) for d, p in await services.devices.wanted(node)}
    return {
        "connected": known.connected,
        "discovers": known.discovers,
        "items": [_device_json(device, wanted.get(device.id)) for device in known.devices],
        "next_cursor": None,
    }


@router.get("/{name}/drives", dependencies=[READ])
async def drives(name: str, request: Request) -> Json:
    """The devices that a node shall serve, and how far each is."""
    services = services_of(request)
    node = await _server(services, name)
    state = await services.feed.read()
    found = await services.devices.wanted(node)
    items = [_wanted_json(services, node, state, drive, told) for drive, told in found]
    return {"items": items, "next_cursor": None}


@router.post("/{name}/drives", dependencies=[ADMIN], status_code=201)
async def add(name: str, body: models.DriveAdd, request: Request, response: Response) -> Json:
    """Take a device into use; 200 when it is so already. It is formatted only if it is blank."""
    services = services_of(request)
    node = await _server(services, name)
    state = await services.feed.read()
    drive, added = await services.devices.add(
        node, body.device, power_loss_protected=body.power_loss_protected, state=state
    )
    response.status_code = 201 if added else 200
    told = services.devices.reports.progress(node.uuid, drive.device)
    return _wanted_json(services, node, state, drive, told)


@router.delete("/{name}/drives/{device:path}", dependencies=[ADMIN], status_code=204)
async def remove(name: str, device: str, request: Request) -> None:
    """Take a device out of use; refused while a placement group counts on it."""
    services = services_of(request)
    await services.devices.remove(await _server(services, name), device)


async def _server(services: Services, name: str) -> Node:
    role, node = await services.nodes.find(name)
    if role != "server":
        raise NotFoundError(
            f"{name} is a consuming node and has no drives",
            code="node_not_found",
            hint="see `drystone node list` for those of role server",
        )
    return node


def _device_json(device: Device, wanted: tuple[WantedDrive, Progress] | None) -> Json:
    # What a server says of a wanted device is newer than its last look at all of them.
    drive = device.drive or (wanted[1].uuid if wanted else "")
    state = "ours" if drive and device.state == "blank" else device.state
    return {
        "id": device.id,
        "path": device.path,
        "size_bytes": device.size,
        "class": device.device_class,
        "serial": device.serial,
        "wwn": device.wwn,
        "model": device.model,
        "state": state,
        "found": device.found,
        "drive": drive or None,
        "configured": device.configured,
        "wanted": _progress(wanted[1]) if wanted else None,
    }


def _progress(told: Progress) -> Json:
    shown = asdict(told)
    return {name: shown[name] for name in ("state", "code", "reason")}


def _wanted_json(
    services: Services, node: Node, state: MapState, drive: WantedDrive, told: Progress
) -> Json:
    reported = services.devices.reports.of(node.uuid)
    seen = next((d for d in (reported[1] if reported else ()) if d.id == drive.device), None)
    of_cluster = (
        d
        for d in state.drives.values()
        if d.node == node.uuid and d.device == drive.device and d.state is not DriveState.GONE
    )
    known = max(of_cluster, key=lambda d: d.id, default=None)
    return {
        "device": drive.device,
        "node": node.name,
        "slot": drive.slot,
        "power_loss_protected": drive.power_loss_protected,
        "path": seen.path if seen else None,
        "drive": told.uuid or (known.uuid if known else None),
        "drive_id": known.id if known else None,
        **_progress(told),
    }
