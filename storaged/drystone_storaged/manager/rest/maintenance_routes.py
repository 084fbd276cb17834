"""`/v1/nodes/{name}/maintenance`."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from drystone_common.errors import ConflictError
from drystone_storaged.cluster.records import Node
from drystone_storaged.manager.maintenance import maintenance_json
from drystone_storaged.manager.rest import models
from drystone_storaged.manager.rest.guard import OPERATE
from drystone_storaged.manager.rest.volumes import Json, services_of
from drystone_storaged.manager.services import Services

router = APIRouter(prefix="/v1/nodes", tags=["maintenance"])


@router.post("/{name}/maintenance", dependencies=[OPERATE], status_code=201)
async def begin(
    name: str, body: models.MaintenanceBody, request: Request, response: Response
) -> Json:
    """Announce that a node goes away for a while; 200 = what stands lasts until then."""
    services = services_of(request)
    node = await _server(services, name)
    record, new = await services.maintenance.begin(node, body.for_s, body.reason, force=body.force)
    response.status_code = 201 if new else 200
    shown = maintenance_json(record, services.env.wall()) or {}
    return {"node": name, **shown}


@router.delete("/{name}/maintenance", dependencies=[OPERATE], status_code=204)
async def end(name: str, request: Request) -> None:
    """Say that it is over; nothing to do where there is none."""
    services = services_of(request)
    await services.maintenance.end(await _server(services, name))


async def _server(services: Services, name: str) -> Node:
    role, node = await services.nodes.find(name)
    if role != "server":
        raise ConflictError(
            f"{name} is a consuming node, it holds no copies",
            code="not_a_storage_node",
            hint="drain it as you like; volumes in use there wait meanwhile",
        )
    return node
