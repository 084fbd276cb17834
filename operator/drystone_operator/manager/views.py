"""A manager's answers as views. What is missing or of another type reads as not known."""

from __future__ import annotations

from collections import Counter
from typing import Any

from drystone_common.errors import DrystoneError
from drystone_operator.manager.client import PAGE, ManagerClient
from drystone_operator.plan.views import (
    OTHER_CLUSTER,
    Device,
    EngineDrive,
    EngineNode,
    EnginePool,
    EngineView,
    MaintenanceView,
    PgCounts,
    Unanswered,
)
from drystone_storaged.agent.rest import segment

Json = dict[str, Any]


async def look(client: ManagerClient, known: str = "") -> EngineView | Unanswered:
    """Everything that decisions need, in three requests; or why there is nothing.

    ``known``: the id that the cluster has. Managers of any other one count as no answer.
    """
    try:
        status = await client.get("/v1/status")
        pools = [pool async for pool in client.items("/v1/pools")]
        volumes = await client.get("/v1/volumes", limit=PAGE)
    except DrystoneError as error:
        return Unanswered(error.code, f"{error.message}.")
    return _of(known, _view(status, pools, volumes))


async def look_at_nodes(client: ManagerClient, known: str = "") -> EngineView | Unanswered:
    """What a fail-over needs: one request, since it looks often. ``known`` as in ``look``."""
    try:
        status = await client.get("/v1/status")
    except DrystoneError as error:
        return Unanswered(error.code, f"{error.message}.")
    return _of(known, _view(status, [], {"next_cursor": ""}))


async def attachments(client: ManagerClient) -> dict[str, frozenset[str]]:
    """Which consuming nodes hold each volume, by the volume's id."""
    return {
        _text(volume, "id"): frozenset(
            _text(held, "node") for held in _list(volume, "attachments") if isinstance(held, dict)
        )
        async for volume in client.items("/v1/volumes")
    }


async def volume_names(client: ManagerClient) -> tuple[str, ...] | None:
    """Names of volumes, the first page of them; None = could not be asked."""
    try:
        page = await client.get("/v1/volumes", limit=PAGE)
    except DrystoneError:
        return None
    return tuple(_text(v, "name") for v in _list(page, "items"))


async def clients_with_volumes(client: ManagerClient) -> frozenset[str] | None:
    """Consuming nodes that have a volume attached or may attach one; None = could not be asked.

    It goes through every volume: asked only where a decision hangs on it.
    """
    found: set[str] = set()
    try:
        async for volume in client.items("/v1/volumes"):
            both = (*_list(volume, "attachments"), *_list(volume, "publications"))
            found |= {_text(one, "node") for one in both if isinstance(one, dict)}
    except DrystoneError:
        return None
    return frozenset(found)


async def devices(client: ManagerClient, node: str) -> tuple[Device, ...] | None:
    """Devices of a node as its server found them; None = its server did not say."""
    try:
        answer = await client.get(f"/v1/nodes/{segment(node)}/devices")
    except DrystoneError:
        return None
    if answer.get("connected") is False:
        return None
    return tuple(_device(d) for d in _list(answer, "items"))


async def wanted_device(client: ManagerClient, node: str, which: str) -> Device | None:
    """A device that a node shall serve and that its server does not see, by its id."""
    try:
        answer = await client.get(f"/v1/nodes/{segment(node)}/drives")
    except DrystoneError:
        return None
    found = (d for d in _list(answer, "items") if _text(d, "device") == which)
    told = next(found, None)
    if told is None:
        return None
    return Device(
        id=which,
        path=_text(told, "path"),
        size=0,
        drive_class="",
        state="absent",
        drive=_text(told, "drive"),
        wanted=_text(told, "state"),
        reason=_text(told, "reason"),
    )


def _of(known: str, engine: EngineView) -> EngineView | Unanswered:
    if not known or engine.uuid == known:
        return engine
    return Unanswered(
        OTHER_CLUSTER,
        f"The managers answer as cluster {engine.uuid or 'without a name'}, but this is cluster "
        f"{known}: their metadata store was emptied or exchanged. Nothing is changed meanwhile. "
        f"Bring back the metadata store of {known} (its volumes, its addresses, or a backup of "
        "it); for a cluster that is meant to be another one make another StorageCluster.",
    )


def _view(status: Json, pools: list[Json], volumes: Json) -> EngineView:
    more = volumes.get("next_cursor") is not None
    return EngineView(
        uuid=_text(status, "cluster"),
        health=_text(status, "health") or "unknown",
        issues=tuple(str(issue)[:1024] for issue in _list(status, "issues")),
        nodes=tuple(_node(n) for n in _list(status, "nodes")),
        drives=tuple(_drive(d) for d in _list(status, "drives")),
        pgs=_pgs(status.get("pgs")),
        pools=tuple(_pool(p) for p in pools),
        # A count of more than a page would cost O(volumes) at each look.
        volumes=None if more else len(_list(volumes, "items")),
        pool_volumes=None if more else _by_pool(volumes),
    )


def _by_pool(volumes: Json) -> dict[str, int]:
    items = (v for v in _list(volumes, "items") if isinstance(v, dict))
    return dict(Counter(_text(volume, "pool") for volume in items))


def _node(data: Json) -> EngineNode:
    votes, beacon = data.get("voter"), data.get("beacon_connected")
    return EngineNode(
        name=_text(data, "name"),
        role=_text(data, "role"),
        connected=data.get("connected") is True,
        version=_text(data, "version"),
        fault_set=_text(data, "fault_set"),
        beacon_connected=beacon if isinstance(beacon, bool) else None,
        beacon_registered=data.get("beacon_registered") is True,
        votes=votes if isinstance(votes, bool) else None,
        maintenance=_maintenance(data.get("maintenance")),
    )


def _maintenance(data: object) -> MaintenanceView | None:
    if not isinstance(data, dict):
        return None
    ended = data.get("ended") is True
    return MaintenanceView(_number(data, "until_s"), _text(data, "reason"), ended)


def _drive(data: Json) -> EngineDrive:
    used = data.get("used")
    held, pgs = data.get("held"), data.get("pgs")
    counts = pgs if isinstance(pgs, dict) else {}
    retest = data.get("retest")
    test = retest if isinstance(retest, dict) else {}
    return EngineDrive(
        id=_number(data, "id"),
        uuid=_text(data, "uuid"),
        node=_text(data, "node"),
        state=_text(data, "state"),
        reason=_text(data, "reason"),
        capacity=_number(data, "capacity"),
        used=used if isinstance(used, int) else None,
        resync_left=_number(data, "resync_bytes_left"),
        bad_blocks=_number(data, "bad_blocks"),
        in_sync=_number(counts, "in_sync"),
        joining=_number(counts, "joining"),
        out=_number(counts, "out"),
        evacuating=data.get("evacuating") is True,
        strikes=len(strikes) if isinstance(strikes := data.get("strikes"), list) else 0,
        ejected=data.get("ejected") is True,
        waits=isinstance(retest, dict),
        failed_tests=_number(test, "tries"),
        found=_text(test, "last"),
        held=held if isinstance(held, int) else None,
    )


def _pool(data: Json) -> EnginePool:
    return EnginePool(
        id=_number(data, "id"),
        name=_text(data, "name"),
        copies=_number(data, "copies"),
        min_insync=_number(data, "min_insync"),
        failure_domain=_text(data, "failure_domain"),
        capacity=_number(data, "capacity"),
        used=_number(data, "used"),
        available=_number(data, "available"),
        pgs=_pgs(data.get("pgs")),
        drive_class=_text(data, "drive_class"),
    )


def _pgs(data: object) -> PgCounts:
    found = data if isinstance(data, dict) else {}
    return PgCounts(
        total=_number(found, "total"),
        in_sync=_number(found, "in_sync"),
        degraded=_number(found, "degraded"),
        resyncing=_number(found, "resyncing"),
        stalled=_number(found, "stalled"),
        unavailable=_number(found, "unavailable"),
    )


def _device(data: Json) -> Device:
    told = data.get("wanted")
    wanted = told if isinstance(told, dict) else {}
    return Device(
        id=_text(data, "id"),
        path=_text(data, "path"),
        size=_number(data, "size_bytes"),
        drive_class=_text(data, "class"),
        # A state that is not told is none that may be taken.
        state=_text(data, "state") or "unknown",
        found=_text(data, "found"),
        serial=_text(data, "serial"),
        wwn=_text(data, "wwn"),
        model=_text(data, "model"),
        drive=_text(data, "drive"),
        wanted=_text(wanted, "state"),
        reason=_text(wanted, "reason"),
        configured=data.get("configured") is True,
    )


def _text(data: Json, key: str) -> str:
    value = data.get(key)
    return value if isinstance(value, str) else ""


def _number(data: Json, key: str) -> int:
    value = data.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _list(data: Json, key: str) -> list[Any]:
    value = data.get(key)
    return value if isinstance(value, list) else []
