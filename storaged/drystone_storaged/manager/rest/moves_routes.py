"""`/v1`: emptying drives and nodes, balancing pools."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from drystone_common.errors import NotFoundError
from drystone_storaged.cluster.records import Drive, DriveState
from drystone_storaged.manager.rest.cluster_routes import task_json
from drystone_storaged.manager.rest.guard import ADMIN
from drystone_storaged.manager.rest.volumes import Json, services_of
from drystone_storaged.manager.services import Services

router = APIRouter(prefix="/v1", tags=["moves"])


@router.post("/drives/{which}/evacuate", dependencies=[ADMIN])
async def evacuate(which: str, request: Request) -> Json:
    """Move everything that a drive holds to others; it serves until then."""
    services = services_of(request)
    drives = await services.evacuation.begin([await services.drives.find(which)])
    return (await _shown(services, drives))[0]


@router.delete("/drives/{which}/evacuate", dependencies=[ADMIN])
async def keep(which: str, request: Request) -> Json:
    """Keep a drive that was to be emptied."""
    services = services_of(request)
    found = await services.drives.find(which)
    await services.evacuation.cancel([found])
    return (await _shown(services, [found]))[0]


@router.post("/nodes/{name}/evacuate", dependencies=[ADMIN])
async def evacuate_node(name: str, request: Request) -> Json:
    """Empty all drives of a node at once: none of them takes what another one gives."""
    services = services_of(request)
    drives = await services.evacuation.begin(await _drives_of(services, name))
    return {"node": name, "drives": await _shown(services, drives)}


@router.delete("/nodes/{name}/evacuate", dependencies=[ADMIN])
async def keep_node(name: str, request: Request) -> Json:
    """Keep all drives of a node."""
    services = services_of(request)
    drives = await services.evacuation.cancel(await _drives_of(services, name))
    return {"node": name, "drives": await _shown(services, drives)}


@router.post("/pools/{name}/rebalance", dependencies=[ADMIN], status_code=202)
async def rebalance(name: str, request: Request, response: Response, *, plan: bool = False) -> Json:
    """Give every drive its share: a task. With `plan` only what it would do."""
    services = services_of(request)
    pool = await services.pools.find(name)
    if not plan:
        return task_json(await services.tasks.rebalance(pool))
    response.status_code = 200
    found = await services.evacuation.forecast(pool)
    state = await services.feed.read()
    numbers = sorted({*found.gains, *found.loses})
    return {
        "pool": name,
        "moves": found.moves,
        "bytes": found.bytes,
        "drives": [
            {
                "drive": number, "node": state.drives[number].node_name,
                "gains": found.gains.get(number, 0), "loses": found.loses.get(number, 0),
            }
            for number in numbers
        ],
    }  # fmt: skip


async def _drives_of(services: Services, name: str) -> list[Drive]:
    role, node = await services.nodes.find(name)
    drives = await services.drives.list() if role == "server" else []
    found = [d for d in drives if d.node == node.uuid and d.state is not DriveState.GONE]
    if not found:
        raise NotFoundError(
            f"node {name} has no drives",
            code="drive_not_found",
            hint="see `drystone drive list`",
        )
    return found


async def _shown(services: Services, drives: list[Drive]) -> list[Json]:
    state = await services.feed.read()
    return services.status.drives(
        [state.drives[d.id] for d in drives if d.id in state.drives], state
    )
