"""`/v1`: testing drives, and forgiving those that were slow."""

from __future__ import annotations

from fastapi import APIRouter, Request

from drystone_common.errors import ConflictError
from drystone_storaged.cluster.records import DriveState
from drystone_storaged.manager.rest.cluster_routes import task_json
from drystone_storaged.manager.rest.guard import OPERATE
from drystone_storaged.manager.rest.volumes import Json, services_of

router = APIRouter(prefix="/v1", tags=["health"])


@router.post("/drives/{which}/retest", dependencies=[OPERATE], status_code=202)
async def retest(which: str, request: Request, *, forgive: bool = False) -> Json:
    """Test a drive by reads and small durable writes: a task.

    One that is out because it was slow comes back if it passes; one that is ejected only with
    `forgive`, which takes all its strikes away.
    """
    services = services_of(request)
    found = await services.drives.find(which)
    if found.state is DriveState.GONE:
        raise ConflictError(
            f"drive {found.id} was forgotten",
            code="drive_gone",
            hint="nothing is on it any more; see `drystone drive list`",
        )
    if forgive:
        await services.retests.forgive(found.id)
    return task_json(await services.tasks.retest(found))
