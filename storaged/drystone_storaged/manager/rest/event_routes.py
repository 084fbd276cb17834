"""`/v1/events`."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request

from drystone_storaged.cluster.events import Event
from drystone_storaged.manager.rest.guard import READ
from drystone_storaged.manager.rest.volumes import Json, Limit, services_of

router = APIRouter(prefix="/v1", tags=["events"])


@router.get("/events", dependencies=[READ])
async def events(
    request: Request,
    since_s: Annotated[int, Query(ge=0, lt=10**12)] = 0,
    level: Literal["", "Normal", "Warning"] = "",
    limit: Limit = 100,
    cursor: Annotated[str, Query(max_length=63)] = "",
) -> Json:
    """What happened since a moment, oldest first; the newest two thousand are kept."""
    book = services_of(request).events
    found, more = await book.read(since_s=since_s, level=level, limit=limit, cursor=cursor)
    return {"items": [event_json(name, event) for name, event in found], "next_cursor": more}


def event_json(name: str, event: Event) -> Json:
    """As REST shows it."""
    return {
        "id": name, "time_s": event.s, "last_s": event.last_s, "level": event.level,
        "kind": event.kind, "object": event.object, "message": event.message,
        "count": event.count,
    }  # fmt: skip
