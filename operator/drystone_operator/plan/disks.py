"""StorageDisk: what was found appears as Available; nothing is touched until a person says In.

A disk that holds anything is refused here already, from what its server found, and by the server
again when it is told to take it: the planner's word alone never formats anything.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from drystone_operator import names
from drystone_operator.models.cluster_parts import AutoAdopt, DiskSelector
from drystone_operator.models.common import quantity_bytes, rounded_quantity
from drystone_operator.models.disk import DEVICE_PATTERN, DiskPhase, DiskState
from drystone_operator.plan.actions import Action, AddDrive, Create, RemoveDrive, WriteStatus
from drystone_operator.plan.views import Device, EngineDrive, EngineView
from drystone_operator.resources.base import Build, labels, owner
from drystone_operator.status import Condition

Json = dict[str, Any]

TAKEABLE: Final = ("blank", "ours")
"""States of a device that its server may make a drive of, or open as the drive that it is."""

NAMELESS: Final = "unnamed:"
"""Ids of devices that nothing tells from another one; a manager takes none of them into use."""


@dataclass(frozen=True, slots=True)
class StorageDiskView:
    """A StorageDisk object."""

    name: str
    node: str
    device: str
    state: DiskState
    power_loss_protected: bool = False


@dataclass(frozen=True, slots=True)
class DiskPlan:
    """What to do for one disk, and what to say if that goes well."""

    actions: tuple[Action, ...]
    status: WriteStatus

    def __str__(self) -> str:
        """As a plan."""
        return "\n".join(str(a) for a in (*self.actions, self.status))


def discovered(
    build: Build, devices: Mapping[str, tuple[Device, ...]], disks: tuple[StorageDiskView, ...]
) -> tuple[Create, ...]:
    """Objects for devices that have none."""
    found: list[Create] = []
    for node in sorted(devices):
        for device in devices[node]:
            known = any(d.node == node and is_device(d.device, device) for d in disks)
            if not known and _nameable(device) and _selected(build, device):
                found.append(Create(storage_disk(build, node, device)))
    return tuple(found)


def _nameable(device: Device) -> bool:
    """Whether an object may stand for it: its id must mean the same device tomorrow."""
    named = not device.id.startswith(NAMELESS)
    return named and re.match(DEVICE_PATTERN, device.id) is not None


def _selected(build: Build, device: Device) -> bool:
    rules: DiskSelector = build.spec.disk_rules.selector
    if rules.classes and device.drive_class not in {c.value for c in rules.classes}:
        return False
    if rules.min_size is not None and device.size < quantity_bytes(rules.min_size):
        return False
    globs = rules.path_globs
    return not globs or any(fnmatch.fnmatchcase(device.path, glob) for glob in globs)


def storage_disk(build: Build, node: str, device: Device) -> Json:
    """The object for a device."""
    adopt = build.spec.disk_rules.auto_adopt is AutoAdopt.BLANK and device.state == "blank"
    state = DiskState.IN if adopt else DiskState.AVAILABLE
    return {
        "apiVersion": names.API_VERSION,
        "kind": "StorageDisk",
        "metadata": {
            "name": object_name(node, device.id),
            "namespace": build.namespace,
            "labels": labels(build, "disk"),
            "ownerReferences": [owner(build)],
        },
        "spec": {"nodeName": node, "device": device.id, "state": state.value},
    }


def object_name(node: str, device: str) -> str:
    """A name that says where and what; a digest tells apart what Kubernetes cannot spell."""
    text = device.removeprefix("/dev/").lower()
    slug = re.sub(r"[^a-z0-9.-]+", "-", text).strip("-.")[-100:].strip("-.")
    if slug != device or not slug:
        slug = f"{slug}-{hashlib.sha256(device.encode()).hexdigest()[:6]}".strip("-")
    return f"{node}-{slug}"


def is_device(wanted: str, device: Device) -> bool:
    """Whether what a person wrote names this device."""
    return wanted in (device.id, device.path) or wanted in {device.serial, device.wwn} - {""}


def plan(
    disk: StorageDiskView,
    devices: tuple[Device, ...] | None,
    engine: EngineView,
    *,
    duplicate_of: str = "",
) -> DiskPlan:
    """What to do for one disk. ``devices`` None = its server could not be asked."""
    if duplicate_of:
        return _say(
            disk, None, None, DiskPhase.REFUSED,
            Condition("Ready", False, "Refused", f"StorageDisk {duplicate_of} is the same device."),
        )  # fmt: skip
    device = next((d for d in devices or () if is_device(disk.device, d)), None)
    drive = _drive(device, engine)
    if device is None:
        return _absent(disk, devices)
    if device.configured:
        return _configured(disk, device, drive)
    return _WANTED.get(disk.state, _later)(disk, device, drive)


def _later(disk: StorageDiskView, device: Device, drive: EngineDrive | None) -> DiskPlan:
    text = f"State {disk.state.value} is not there yet; use In, or Remove."
    phase = DiskPhase.UP if drive and drive.state == "up" else DiskPhase.AVAILABLE
    return _say(disk, device, drive, phase, Condition("Ready", None, "NotSupported", text))


def refused(disk: StorageDiskView, device: Device | None, reason: str) -> WriteStatus:
    """What to say when the server itself refused."""
    condition = Condition("Ready", False, "Refused", reason)
    return _say(disk, device, None, DiskPhase.REFUSED, condition).status


def find(disk: StorageDiskView, devices: tuple[Device, ...] | None) -> Device | None:
    """The device that a disk is about."""
    return next((d for d in devices or () if is_device(disk.device, d)), None)


def _drive(device: Device | None, engine: EngineView) -> EngineDrive | None:
    if device is None or not device.drive:
        return None
    return next((d for d in engine.drives if d.uuid == device.drive), None)


def _absent(disk: StorageDiskView, devices: tuple[Device, ...] | None) -> DiskPlan:
    if devices is None:
        text = f"The server of node {disk.node} is not connected, so the disk is not seen."
        condition = Condition("Ready", None, "NodeDown", text)
        return DiskPlan((), WriteStatus("StorageDisk", disk.name, (condition,)))
    text = (
        f"Node {disk.node} has no device {disk.device}. If it is gone for good: "
        "docs/operations.md, In Kubernetes."
    )
    return _say(disk, None, None, DiskPhase.MISSING, Condition("Ready", False, "Missing", text))


def _configured(disk: StorageDiskView, device: Device, drive: EngineDrive | None) -> DiskPlan:
    """A drive of the server's own settings: shown, and taken in or out only there."""
    up = drive is not None and drive.state == "up"
    text = f"{device.path} is a drive of the server's own settings; it is managed there."
    phase = DiskPhase.UP if up else DiskPhase.DOWN
    return _say(disk, device, drive, phase, Condition("Ready", up, "InUse", text))


def _in(disk: StorageDiskView, device: Device, drive: EngineDrive | None) -> DiskPlan:
    if drive is not None and drive.state == "up":
        text = f"Drive {drive.id} is up."
        return _say(disk, device, drive, DiskPhase.UP, Condition("Ready", True, "Up", text))
    why_not = _untakeable(device, drive)
    if why_not:
        return _say(
            disk, device, None, DiskPhase.REFUSED, Condition("Ready", False, "Refused", why_not)
        )
    take = AddDrive(disk.node, device.id, disk.power_loss_protected)
    if device.wanted == "refused":
        reason = device.reason or f"it holds {device.found or device.state}"
        text = f"The server of node {disk.node} refuses {device.path}: {reason}"
        return _say(
            disk, device, drive, DiskPhase.REFUSED, Condition("Ready", False, "Refused", text)
        )
    if drive is None:
        text = f"The server of node {disk.node} takes {device.path}."
        condition = Condition("Ready", False, "Initialising", text)
        return _say(disk, device, None, DiskPhase.INITIALISING, condition, take)
    gone = drive.state == "gone"
    if not gone and not device.wanted and device.state in TAKEABLE:
        text = f"Drive {drive.id} was given up before; the server of node {disk.node} opens it."
        condition = Condition("Ready", False, "Initialising", text)
        return _say(disk, device, drive, DiskPhase.INITIALISING, condition, take)
    why = f" ({drive.reason})" if drive.reason else ""
    text = f"Drive {drive.id} is {drive.state}{why}."
    wipe = "a new file" if device.drive_class == "file" else f"`blkdiscard -z {device.path}`"
    text += (
        f" Wiped ({wipe}), it is taken as a new drive."
        if gone
        else " The log of its server says more; drystone status says what to do."
    )
    condition = Condition("Ready", False, "Gone" if gone else "Down", text)
    return _say(disk, device, drive, DiskPhase.GONE if gone else DiskPhase.DOWN, condition)


def _untakeable(device: Device, drive: EngineDrive | None) -> str:
    if drive is not None:
        return ""
    if device.id.startswith(NAMELESS):
        return (
            f"{device.path} has neither a serial number nor a WWN that only it has, so it could "
            "not be told from another disk after a restart."
        )
    if device.state not in TAKEABLE:
        return f"{device.path} is left alone: it holds {device.found or device.state}."
    return ""


def _remove(disk: StorageDiskView, device: Device, drive: EngineDrive | None) -> DiskPlan:
    """What is wanted of its server is taken back first, also where no drive came of it yet."""
    up = drive is not None and drive.state == "up"
    if not device.wanted and not up:
        text = "It is not in use; nothing on it was touched."
        return _say(disk, device, drive, DiskPhase.GONE, Condition("Ready", False, "Removed", text))
    what = "The disk" if drive is None else f"Drive {drive.id}"
    condition = Condition("Ready", up, "Removing", f"{what} leaves as soon as no data needs it.")
    phase = DiskPhase.UP if up else DiskPhase.DOWN
    return _say(disk, device, drive, phase, condition, RemoveDrive(disk.node, device.id))


def _available(disk: StorageDiskView, device: Device, drive: EngineDrive | None) -> DiskPlan:
    if drive is not None and (drive.state == "up" or device.wanted):
        text = f"It is drive {drive.id} of this cluster; set state: In to keep it so."
        phase = DiskPhase.UP if drive.state == "up" else DiskPhase.DOWN
        condition = Condition("Ready", drive.state == "up", "InUse", text)
        return _say(disk, device, drive, phase, condition)
    if device.state in TAKEABLE:
        text = "It is free. Set state: In to have the cluster take it."
        if device.state == "ours":
            text = "It is a drive of this cluster. Set state: In to have it opened again."
        condition = Condition("Ready", False, "Available", text)
        return _say(disk, device, None, DiskPhase.AVAILABLE, condition)
    text = f"It holds {device.found or device.state}, so it would be refused."
    if device.state == "foreign":
        text += " To wipe it, if nobody needs that: docs/operations.md, Adding and removing drives."
    return _say(
        disk, device, None, DiskPhase.AVAILABLE, Condition("Ready", False, "NotBlank", text)
    )


_WANTED: Final = {
    DiskState.IN: _in,
    DiskState.REMOVE: _remove,
    DiskState.AVAILABLE: _available,
}


def _say(
    disk: StorageDiskView,
    device: Device | None,
    drive: EngineDrive | None,
    phase: DiskPhase,
    condition: Condition,
    *actions: Action,
) -> DiskPlan:
    fields: Json = {"state": phase.value}
    if device is not None:
        fields |= _device_fields(device)
    if drive is not None:
        fields |= _drive_fields(drive)
    return DiskPlan(actions, WriteStatus("StorageDisk", disk.name, (condition,), fields))


def _device_fields(device: Device) -> Json:
    found = {
        "path": device.path,
        "serial": device.serial,
        "wwn": device.wwn,
        "model": device.model,
        "driveClass": device.drive_class,
        "found": device.found,
        # An absent one is known by its id alone.
        "capacity": rounded_quantity(device.size) if device.size else None,
        "capacityBytes": device.size or None,
    }
    return {key: value for key, value in found.items() if value not in ("", None)}


def _drive_fields(drive: EngineDrive) -> Json:
    found: Json = {
        "driveId": drive.id,
        "driveUUID": drive.uuid,
        "badBlocks": drive.bad_blocks,
        "resyncBytesLeft": drive.resync_left,
    }
    if drive.used is not None:
        found |= {"used": rounded_quantity(drive.used), "usedBytes": drive.used}
    return found
