"""`/v1/cluster`, health, status, nodes, drives, pools, tasks, join tokens, clients."""

from __future__ import annotations

import secrets
from dataclasses import asdict
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response

from drystone_common import __version__
from drystone_common.errors import ConflictError, DeadlineError, InvalidArgumentError
from drystone_storaged.cluster.fence import FencedNode
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.membership_service import Evidence
from drystone_storaged.cluster.pools import PoolChanges, PoolSpec
from drystone_storaged.cluster.records import DriveState, Node, Task
from drystone_storaged.cluster.replace import too_few_left
from drystone_storaged.manager.rest import models
from drystone_storaged.manager.rest.guard import ADMIN, OPERATE, READ, READ_ANYWHERE
from drystone_storaged.manager.rest.volumes import Json, Limit, services_of
from drystone_storaged.manager.services import Services

router = APIRouter(prefix="/v1", tags=["cluster"])

NAMED_MAX: Final = 10  # volumes in an error's sentence
DETAILED_MAX: Final = 1000  # and in its details; the counts say whether there are more

Cursor = Annotated[str | None, Query(max_length=64)]


@router.get("/cluster", dependencies=[READ])
async def cluster(request: Request) -> Json:
    """Who this is."""
    env = services_of(request).env
    return {"uuid": env.cluster.uuid, "version": __version__, "manager": env.name}


@router.get("/health", dependencies=[READ_ANYWHERE])
async def health(request: Request) -> Json:
    """Whether the manager can answer from its store, and whether it leads; cheap."""
    services = services_of(request)
    revision = await services.env.store.revision()
    name = await services.leadership.leader()
    leads = services.leadership.leads
    return {
        "status": "ok",
        "revision": revision,
        "manager": services.env.name,
        "role": "leader" if leads else "standby",
        "leader": leads,
        "leader_name": name,
    }


@router.get("/status", dependencies=[READ])
async def status(request: Request) -> Json:
    """Everything in one look."""
    return await services_of(request).status.summary()


@router.get("/map", dependencies=[READ])
async def show_map(
    request: Request, pool: Annotated[str | None, Query(max_length=63)] = None
) -> Json:
    """PG records of one pool, or of all."""
    services = services_of(request)
    only = (await services.pools.find(pool)).id if pool else None
    state = await services.feed.read()
    return {
        "revision": state.revision,
        "pgs": [
            {"name": f"{state.pools[ref.pool].name}/{ref.pg}", "pool": ref.pool, "pg": ref.pg}
            | asdict(pg)
            for ref, pg in state.known_pgs(only).items()
        ],
    }


@router.get("/nodes", dependencies=[READ])
async def nodes(request: Request, limit: Limit = 1000, cursor: Cursor = None) -> Json:
    """Storage and consuming nodes by name."""
    summary = await services_of(request).status.summary()
    return page(sorted(summary["nodes"], key=lambda n: n["name"]), "name", limit, cursor)


@router.get("/nodes/{name}", dependencies=[READ])
async def node(name: str, request: Request) -> Json:
    """One node of either kind."""
    services = services_of(request)
    role, found = await services.nodes.find(name)
    state, known = await services.feed.read(), await services.status.registered()
    return services.status.node(found, role, state, known)


@router.delete("/nodes/{name}", dependencies=[ADMIN], status_code=204)
async def forget(name: str, request: Request, *, force: bool = False) -> None:
    """Forget a node for good; its name is free again.

    ``force``: also where too few other drives have what its drives hold, and on a person's word
    that its machine is off where nothing proves that (a majority of the voters is lost with it).
    """
    services = services_of(request)
    role, found = await services.nodes.find(name)
    if services.sessions.get((role, found.uuid)) is not None:
        raise ConflictError(
            f"node {name} is connected", code="node_in_use", hint="stop its processes first"
        )
    if role == "server":
        state = await services.feed.read()
        state.require()  # what its drives hold, and which are its, has to be known
        _refuse_expected(services, found, state)
        await _refuse_members(services, found, force=force)
    if role == "server" and not force:
        _refuse_last_copies(found, await services.feed.read())
    if role == "client":
        after, more = 0, True
        while more:
            volumes, more = await services.volumes.list(after, 1000)
            for volume in volumes:
                after = volume.id
                if name in {p.node for p in volume.publications} | {
                    a.node for a in volume.attachments
                }:
                    await services.fence.unpublish(volume.id, name)
    await services.nodes.forget(name)
    if role == "server":
        await services.voters.settle()
        await services.replacement.refill()


async def _refuse_members(services: Services, node: Node, *, force: bool) -> None:
    """While its drives are members a node may answer reads: unless a person knows it is off."""
    if force and await services.judge.has_members(node.uuid):
        said = Evidence("a person says that its machine is off", services.env.monotonic())
        await services.judge.drop_node(node.uuid, said)
    if not await services.judge.has_members(node.uuid):
        return
    hint = "wait until they are dropped, which takes a majority of the storage nodes; " + (
        "PGs whose only copy is there need `pool mark-lost`"
        if force
        else f"is its machine off for good, `drystone node forget {node.name} --force --yes`"
    )
    raise ConflictError(
        f"drives of node {node.name} are members of PGs", code="node_in_use", hint=hint
    )


def _refuse_expected(services: Services, node: Node, state: MapState) -> None:
    """Right after an election a server without a session may live, and serve its drives."""
    mine = [d for d in state.drives.values() if d.node == node.uuid]
    over = all(d.ended or d.state is DriveState.GONE for d in mine)
    if not over and services.server_may_live(node.uuid):
        raise ConflictError(
            f"this manager leads since a moment, and node {node.name} may be on its way to it",
            code="node_in_use",
            hint="try again in some seconds, with its processes stopped",
        )


def _refuse_last_copies(node: Node, state: MapState) -> None:
    """What a node holds must not go while few others have it: its drives may come back."""
    mine = frozenset(d.id for d in state.drives.values() if d.node == node.uuid)
    few = too_few_left(state, mine)
    if not few:
        return
    first = f"{state.pools[few[0].pool].name}/{few[0].pg}"
    raise ConflictError(
        f"without node {node.name} fewer drives than min_insync have a copy of {len(few)} PGs, "
        f"such as {first}",
        code="node_holds_copies",
        hint="start its server, or bring other copies back first; if its drives are lost for good "
        f"and the remaining copies shall do, `drystone node forget {node.name} --yes --force`",
    )


@router.post("/join-tokens", dependencies=[ADMIN], status_code=201)
async def join_token(body: models.JoinTokenCreate, request: Request) -> Json:
    """A token that admits one node; shown once."""
    token = secrets.token_urlsafe(24)
    await services_of(request).nodes.add_join_token(token, body.role, body.name or "")
    return {"token": token, "role": body.role, "name": body.name}


@router.post("/clients/{name}/fence", dependencies=[OPERATE])
async def fence_client(name: str, request: Request) -> Json:
    """Fence everything that a consuming node has attached, or is not proven to have lost."""
    services = services_of(request)
    await services.nodes.find(name)
    concerned: list[int] = []
    after, more = 0, True
    while more:
        volumes, more = await services.volumes.list(after, 1000)
        for volume in volumes:
            after = volume.id
            pending = volume.fencing is not None and volume.fencing.concerns(name)
            if pending or any(a.node == name for a in volume.attachments):
                concerned.append(volume.id)
    done = await services.fence.fence_node(concerned, name)
    if done.unproven:
        raise _not_fenced(name, done)
    return {"node": name, "volumes": sorted(f"{volume.id:016x}" for volume in done.proven)}


def _not_fenced(node: str, done: FencedNode) -> DeadlineError:
    """Everything is ordered, and most may be proven: say of which volumes it is not."""
    left = sorted(done.unproven, key=lambda item: item[0].name)
    named = ", ".join(volume.name for volume, _ in left[:NAMED_MAX])
    more = f" and {len(left) - NAMED_MAX} more" if len(left) > NAMED_MAX else ""
    return DeadlineError(
        f"node {node}: the fences of {len(left)} volumes are ordered and not proven: "
        f"{named}{more}; the first: {left[0][1].message}",
        code="fence_unproven",
        hint=left[0][1].hint,
        details={
            "node": node,
            "proven": _ids([volume.id for volume in done.proven]),
            "proven_count": len(done.proven),
            "unproven": _ids([volume.id for volume, _ in left]),
            "unproven_count": len(left),
        },
    )


def _ids(numbers: list[int]) -> str:
    return " ".join(f"{number:016x}" for number in sorted(numbers)[:DETAILED_MAX])


@router.get("/drives", dependencies=[READ])
async def drives(request: Request, limit: Limit = 1000, cursor: Cursor = None) -> Json:
    """Drives by id."""
    services = services_of(request)
    state = await services.feed.read()
    items = services.status.drives([state.drives[i] for i in sorted(state.drives)], state)
    return page(items, "id", limit, cursor)


@router.get("/drives/{which}", dependencies=[READ])
async def drive(which: str, request: Request) -> Json:
    """One drive by number or uuid."""
    services = services_of(request)
    found = await services.drives.find(which)
    return services.status.drive(found, await services.feed.read())


@router.delete("/drives/{which}", dependencies=[ADMIN], status_code=204)
async def forget_drive(which: str, request: Request) -> None:
    """Forget a drive for good: a blank one in its place comes in under a new number."""
    services = services_of(request)
    await services.replacement.forget(which)
    await services.replacement.refill()


@router.post("/drives/{which}/scrub", dependencies=[OPERATE], status_code=202)
async def scrub(which: str, request: Request) -> Json:
    """Read a drive back against its checksums: a task."""
    services = services_of(request)
    found = await services.drives.find(which)
    if found.state is not DriveState.UP:
        raise ConflictError(f"drive {found.id} is {found.state.value}", code="drive_not_up")
    return task_json(await services.tasks.scrub(found))


@router.post("/pools/{name}/compare", dependencies=[OPERATE], status_code=202)
async def compare(name: str, request: Request) -> Json:
    """Compare what all copies of a pool hold: a task."""
    services = services_of(request)
    return task_json(await services.tasks.compare(await services.pools.find(name)))


@router.post("/pools", dependencies=[ADMIN], status_code=201)
async def create_pool(body: models.PoolCreate, request: Request, response: Response) -> Json:
    """Make a pool on the drives that are up."""
    services = services_of(request)
    # A majority of copies: with one lost writes go on, with two they wait.
    default_min = min(body.copies, body.copies // 2 + 1)
    spec = PoolSpec(
        body.name, body.copies, default_min if body.min_insync is None else body.min_insync,
        body.failure_domain, body.drive_class, body.pg_count or 0,
    )  # fmt: skip
    pool, created = await services.pools.create(spec)
    response.status_code = 201 if created else 200
    return await services.status.pool(pool)


@router.get("/pools", dependencies=[READ])
async def pools(request: Request, limit: Limit = 1000, cursor: Cursor = None) -> Json:
    """Pools by id."""
    services = services_of(request)
    items = [await services.status.pool(pool) for pool in await services.pools.list()]
    return page(items, "id", limit, cursor)


@router.get("/pools/{name}", dependencies=[READ])
async def pool(name: str, request: Request) -> Json:
    """One pool with its space."""
    services = services_of(request)
    return await services.status.pool(await services.pools.find(name))


@router.patch("/pools/{name}", dependencies=[ADMIN])
async def change_pool(name: str, body: models.PoolChange, request: Request) -> Json:
    """Change what may change while a pool is in use."""
    services = services_of(request)
    changes = PoolChanges(body.min_insync, body.out_time_s, body.rebalance, body.scrub_days)
    return await services.status.pool(await services.pools.change(name, changes))


@router.delete("/pools/{name}", dependencies=[ADMIN], status_code=204)
async def delete_pool(name: str, request: Request) -> None:
    """Remove a pool without volumes."""
    await services_of(request).pools.delete(name)


@router.get("/pools/{name}/mark-lost", dependencies=[READ])
async def could_take_over(name: str, pg: int, request: Request) -> Json:
    """Which drives could take over a PG whose copies are all gone, the one that would first."""
    services = services_of(request)
    found = await services.pools.find(name)
    heirs = await services.membership.heirs(PgRef(found.id, pg))
    drives = (await services.feed.read()).drives
    items = [
        {"drive": h.drive, "node": drives[h.drive].node_name if h.drive in drives else None,
         "before_epoch": h.e0, "joining": h.joins, "text": str(h)}
        for h in heirs
    ]  # fmt: skip
    return {"pool": name, "pg": pg, "drives": items}


@router.post("/pools/{name}/mark-lost", dependencies=[ADMIN], status_code=202)
async def mark_lost(name: str, body: models.MarkLost, request: Request) -> Json:
    """Give the data of a PG up whose copies are all gone."""
    services = services_of(request)
    found = await services.pools.find(name)
    return task_json(await services.tasks.mark_lost(PgRef(found.id, body.pg), body.drive))


@router.get("/tasks", dependencies=[READ])
async def tasks(request: Request, limit: Limit = 100, cursor: Cursor = None) -> Json:
    """Long work, oldest first."""
    items = [task_json(task) for task in await services_of(request).tasks.list()]
    return page(items, "id", limit, cursor)


@router.get("/tasks/{number}", dependencies=[READ])
async def task(number: int, request: Request) -> Json:
    """One task."""
    if not 0 < number < 2**63:
        raise InvalidArgumentError(f"{number} is not a task's number", code="invalid_id")
    return task_json(await services_of(request).tasks.get(number))


def task_json(task: Task) -> Json:
    """A task as REST shows it."""
    shown: dict[str, Any] = asdict(task)
    del shown["cursor"]
    return {**shown, "task": str(task.id), "message": shown.pop("detail")}


def page(items: list[Json], key: str, limit: int, cursor: str | None) -> Json:
    """Cut a sorted list that is small by nature (nodes, drives, pools, tasks)."""
    try:
        start = int(cursor) if cursor and items and isinstance(items[0][key], int) else cursor
    except ValueError:
        raise InvalidArgumentError("the cursor is not one of ours", code="invalid_cursor") from None
    rest = [item for item in items if start is None or item[key] > start]
    more = len(rest) > limit
    return {
        "items": rest[:limit],
        "next_cursor": str(rest[limit - 1][key]) if more else None,
    }
