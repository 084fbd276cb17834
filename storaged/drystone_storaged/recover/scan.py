"""`drystone recover scan`: reads all drives of a node whose server is stopped, changing nothing."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from drystone_common.errors import ConflictError, DataError, DrystoneError
from drystone_common.files import read_json
from drystone_storaged.agent.identity import FILE_NAME, IdentityFile
from drystone_storaged.attach.command import Runner
from drystone_storaged.cluster.scans import (
    NodeScan,
    ScannedDrive,
    ScannedPg,
    ScannedTicket,
    ScannedVolume,
    StoredRole,
    Unread,
)
from drystone_storaged.server.app import machine_id
from drystone_storaged.server.discover import Discovery
from drystone_storaged.server.examine import Examiner, State
from drystone_storaged.server.ledger import Ledger
from drystone_storaged.server.prepare import DriveTools, serial_of
from drystone_storaged.server.settings import ServerSettings

Facts = Callable[[str], str]
"""The native module's ``drive_facts``."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a drive is, and what a server would tell of that place."""

    key: str
    path: str
    addr: str = ""
    device: str = ""
    drive_class: str = ""


@dataclass(frozen=True, slots=True)
class ScanParts:
    """What a scan takes from outside."""

    facts: Facts
    tools: DriveTools
    runner: Runner
    now_s: int


async def scan_node(settings: ServerSettings, parts: ScanParts) -> NodeScan:
    """Read every drive that this node has, and name those that it should have."""
    identity = _identity(settings)
    ledger = Ledger(Path(settings.state_dir))
    places = await _places(settings, parts, identity["cluster"])
    drives: list[ScannedDrive] = []
    unread: list[Unread] = []
    for place in places:
        known = ledger.get(place.key)
        try:
            if known is None and await asyncio.to_thread(_is_empty, place, parts):
                continue  # no drive was ever made there
            one = await asyncio.to_thread(_read, place, parts)
        except ConflictError:
            raise
        except (DrystoneError, OSError) as error:
            unread.append(Unread(known.uuid if known else "", place.path, str(error)))
            continue
        drives.append(one)
    seen = {d.uuid for d in drives} | {u.uuid for u in unread}
    for key, uuid in sorted(ledger.entries().items()):
        if uuid not in seen:
            unread.append(Unread(uuid, key, "no such drive is seen on this node"))
    return NodeScan(
        identity["cluster"], identity["name"], identity["uuid"], parts.now_s,
        tuple(drives), tuple(unread),
    )  # fmt: skip


def _identity(settings: ServerSettings) -> dict[str, str]:
    """Name, uuid as hex, cluster; a node that never belonged to one has nothing to tell."""
    path = Path(settings.state_dir) / FILE_NAME
    read_json(path)  # NotFoundError where there is none: a scan makes no identity
    found = IdentityFile(Path(settings.state_dir)).load_or_create(settings.name)
    if found.cluster is None:
        raise DataError(
            f"{path} belongs to no cluster yet",
            code="not_registered",
            hint="name the settings file of the server whose drives are to be read; a node that "
            "never joined has nothing to scan",
        )
    return {"name": found.name, "uuid": found.uuid.hex, "cluster": str(found.cluster)}


async def _places(settings: ServerSettings, parts: ScanParts, cluster: str) -> list[Place]:
    """Drives of the settings, and devices that hold a drive of this cluster."""
    places = [Place(d.path, d.path, d.listen) for d in settings.drives]
    if not settings.drive_listen or not settings.discover:
        return places
    examiner = Examiner(parts.runner, parts.tools, UUID(cluster))
    look = Discovery(parts.runner, examiner, settings.device_folders, dict)
    mine = {await asyncio.to_thread(os.path.realpath, p.path) for p in places}
    for seen in await look.look():
        if seen.finding.state is State.IN_USE and "open in another" in seen.finding.found:
            raise in_use(seen.disk.path)
        disk = seen.disk
        real = await asyncio.to_thread(os.path.realpath, disk.path)
        if seen.finding.state is State.OURS and real not in mine:
            listen = settings.drive_listen  # its own port it has from its slot, at its next open
            places.append(Place(disk.id, disk.path, listen, disk.id, disk.device_class))
    return places


def _is_empty(place: Place, parts: ScanParts) -> bool:
    return _asked(parts.tools.inspect_drive, place.path)["state"] in {"blank", "missing"}


def _asked(native: Callable[[str], str], path: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(native(path))
    except Exception as error:
        # The module's own exception type is not importable where a fake stands in for it.
        if "open elsewhere" in str(error):
            raise in_use(path) from error
        raise DataError(
            f"{path}: {error}",
            code="drive_unreadable",
            hint="see `dmesg` and the cables, then scan again",
        ) from error
    return found


def _read(place: Place, parts: ScanParts) -> ScannedDrive:
    block = _asked(parts.tools.inspect_drive, place.path)
    if block["state"] == "in-use":
        raise in_use(place.path)
    facts = _asked(parts.facts, place.path)
    return ScannedDrive(
        uuid=facts["uuid"], number=facts["drive"], cluster=facts["cluster"], path=place.path,
        addr=place.addr, serial=serial_of(place.path, machine_id(), place.device),
        capacity=int(block["size"]), nonce=facts["nonce"], incarnation=facts["incarnation"],
        revision=facts["revision"], suspect=facts["suspect"] or "",
        damaged=tuple(facts["damaged"]), device=place.device, drive_class=place.drive_class,
        pgs=tuple(_pg(pg) for pg in facts["pgs"]),
        volumes=tuple(_volume(v) for v in facts["volumes"]),
        frozen=tuple(f["layer"] for f in facts["frozen"]), freed=tuple(facts["freed"]),
    )  # fmt: skip


def _pg(pg: dict[str, Any]) -> ScannedPg:
    return ScannedPg(
        pool=pg["pool"], pg=pg["pg"], epoch=pg["epoch"], role=StoredRole(pg["role"]),
        highest_epoch=pg["highest_epoch"],
        ceiling=max(pg["epoch"], pg["highest_epoch"], pg["join"], pg["quiesced"]),
        distrusted=pg["distrusted"], objects=pg["objects"], blocks=pg["blocks"],
    )  # fmt: skip


def _volume(volume: dict[str, Any]) -> ScannedVolume:
    ticket = volume["ticket"]
    return ScannedVolume(
        volume=volume["volume"],
        sealed_generation=volume["sealed_generation"],
        max_generation=max(volume["max_generation"], volume["stable"]["generation"]),
        ticket=None
        if ticket is None
        else ScannedTicket(
            serial=ticket["serial"], generation=ticket["generation"], size=ticket["size"],
            pool=ticket["pool"], seed=ticket["seed"], chain=tuple(ticket["chain"]),
            parents=ticket["parents"],
        ),
        layers=tuple(layer["layer"] for layer in volume["layers"]),
        end_block=max((layer["end_block"] for layer in volume["layers"]), default=0),
    )  # fmt: skip


def in_use(path: str) -> ConflictError:
    """The error for a drive that a server has open."""
    return ConflictError(
        f"{path} is open in another process",
        code="drive_in_use",
        hint="stop the server of this node (and every manager) first; a scan is of drives at rest",
    )
