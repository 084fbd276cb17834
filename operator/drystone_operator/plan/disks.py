"""StorageDisk: what was found appears as Available; nothing is touched until a person says In.

A disk that holds anything is refused here already, from what its server found, and by the server
again when it is told to take it: the planner's word alone never formats anything.
"""

from __future__ import annotations

import fnmatch
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from drystone_operator import names
from drystone_operator.models.cluster_parts import AutoAdopt, DiskSelector
from drystone_operator.models.common import quantity_bytes, rounded_quantity
from drystone_operator.models.disk import DEVICE_PATTERN, DiskPhase, DiskState
from drystone_operator.plan.actions import (
    Action,
    AddDrive,
    Create,
    EvacuateDrive,
    RemoveDrive,
    RetestDrive,
    WriteStatus,
)
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
    evacuates: bool = False
    """Whether its status says that it is evacuated, as its spec once wanted."""
    generation: int = 0
    retested: int = 0
    """Generation of the spec for which its drive was tested."""


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
        return _absent(disk, devices, engine)
    if device.configured:
        return _configured(disk, device, drive)
    return _WANTED[disk.state](disk, device, drive)


def refused(
    disk: StorageDiskView, device: Device | None, reason: str, engine: EngineView
) -> WriteStatus:
    """What to say when the server or the manager itself refused."""
    drive = _drive(device, engine)
    if drive is not None and drive.state == "up":
        # It serves on as before; what it shall become is what was refused.
        condition = Condition("Ready", True, "Refused", reason)
        return _say(disk, device, drive, DiskPhase.UP, condition).status
    condition = Condition("Ready", False, "Refused", reason)
    return _say(disk, device, None, DiskPhase.REFUSED, condition).status


def find(disk: StorageDiskView, devices: tuple[Device, ...] | None) -> Device | None:
    """The device that a disk is about."""
    return next((d for d in devices or () if is_device(disk.device, d)), None)


def _drive(device: Device | None, engine: EngineView) -> EngineDrive | None:
    if device is None or not device.drive:
        return None
    return next((d for d in engine.drives if d.uuid == device.drive), None)


def _absent(
    disk: StorageDiskView, devices: tuple[Device, ...] | None, engine: EngineView
) -> DiskPlan:
    if devices is None and engine.node("server", disk.node) is None:
        text = (
            f"The managers know no server of node {disk.node}. If it was removed: "
            f"`kubectl delete dsd {disk.name}`; else the disk is seen once it has joined."
        )
        condition = Condition("Ready", False, "NodeUnknown", text)
        return _say(disk, None, None, DiskPhase.MISSING, condition)
    if devices is None:
        text = f"The server of node {disk.node} is not connected, so the disk is not seen."
        condition = Condition("Ready", None, "NodeDown", text)
        return DiskPlan((), WriteStatus("StorageDisk", disk.name, (condition,)))
    text = f"Node {disk.node} has no device {disk.device}. "
    if disk.state is DiskState.REMOVE:
        text += f"It was given up before: `kubectl delete dsd {disk.name}` takes this object away."
    else:
        text += "If it is gone for good: docs/operations.md, In Kubernetes."
    return _say(disk, None, None, DiskPhase.MISSING, Condition("Ready", False, "Missing", text))


def _configured(disk: StorageDiskView, device: Device, drive: EngineDrive | None) -> DiskPlan:
    """A drive of the server's own settings: shown, and taken in or out only there."""
    up = drive is not None and drive.state == "up"
    text = f"{device.path} is a drive of the server's own settings; it is managed there."
    phase = DiskPhase.UP if up else DiskPhase.DOWN
    return _say(disk, device, drive, phase, Condition("Ready", up, "InUse", text))


def _in(disk: StorageDiskView, device: Device, drive: EngineDrive | None) -> DiskPlan:
    if drive is not None and drive.state == "down" and (drive.ejected or drive.waits):
        return _say(disk, device, drive, DiskPhase.DOWN, _out(drive))
    return _use(disk, device, drive)


def _use(disk: StorageDiskView, device: Device, drive: EngineDrive | None) -> DiskPlan:
    if drive is not None and drive.state == "up":
        return _up(disk, device, drive)
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


def _out(drive: EngineDrive) -> Condition:
    """Why a drive is out that was slow."""
    if drive.ejected:
        text = (
            f"Drive {drive.id} was slow or hung {drive.strikes} times in a day. What it held is "
            "copied to other disks where another failure domain has room (`drystone status`). "
            "Replace it (Remove), or say Retest if the cause is cured."
        )
        return Condition("Ready", False, "Ejected", text)
    if drive.failed_tests:
        text = (
            f"Drive {drive.id} was slow and failed {drive.failed_tests} tests, at last "
            f"{drive.found}. It is tested again each 10 minutes at most."
        )
        return Condition("Ready", False, "RetestFailed", text)
    text = f"Drive {drive.id} was slow; it is tested, and serves again if it passes."
    return Condition("Ready", False, "Retesting", text)


def _retest(disk: StorageDiskView, device: Device, drive: EngineDrive | None) -> DiskPlan:
    """In use, and tested once for each time that a person says so; then it is as with In.

    Once: a drive that is ejected again after it was forgiven is not forgiven again.
    """
    if drive is None or drive.state == "gone":
        text = "It is no drive of this cluster, so there is nothing to test."
        condition = Condition("Ready", False, "NothingToRetest", text)
        return _say(disk, device, drive, DiskPhase.AVAILABLE, condition)
    if drive.state == "up" or disk.retested == disk.generation:
        return _marked(disk, _in(disk, device, drive))
    if not drive.ejected and not drive.waits:
        # It is down for another reason, which no test cures.
        return _in(disk, device, drive)
    begun = Condition("Ready", False, "Retesting", f"Drive {drive.id} is tested.")
    done = _say(disk, device, drive, DiskPhase.DOWN, begun, RetestDrive(drive.id))
    return _marked(disk, done)


def _marked(disk: StorageDiskView, plan: DiskPlan) -> DiskPlan:
    """With the note that the drive was tested for this spec."""
    fields = {**plan.status.fields, "retestedGeneration": disk.generation}
    return replace(plan, status=replace(plan.status, fields=fields))


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
        text = (
            "It is not in use, and nothing on it was touched: pull it, or say In to use it again."
        )
        return _say(disk, device, drive, DiskPhase.GONE, Condition("Ready", False, "Removed", text))
    if drive is not None and drive.groups:
        return _evacuate(disk, device, drive)
    what = "The disk" if drive is None else f"Drive {drive.id}"
    condition = Condition("Ready", up, "Removing", f"{what} leaves as soon as no data needs it.")
    phase = DiskPhase.UP if up else DiskPhase.DOWN
    return _say(disk, device, drive, phase, condition, RemoveDrive(disk.node, device.id))


def _evacuate(disk: StorageDiskView, device: Device, drive: EngineDrive | None) -> DiskPlan:
    """Its copies are made on other drives first; until each of them is in sync, its own counts."""
    if drive is None or drive.state == "gone":
        text = "It is no drive of this cluster, so there is nothing to copy from it."
        condition = Condition("Ready", False, "NothingToEvacuate", text)
        return _say(disk, device, drive, DiskPhase.AVAILABLE, condition)
    up = drive.state == "up"
    actions = () if drive.evacuating else (EvacuateDrive(drive.id),)
    if drive.groups or not drive.evacuating:
        what = "is given up" if disk.state is DiskState.REMOVE else "is empty"
        text = (
            f"What drive {drive.id} holds is copied to others: {drive.groups} placement groups "
            f"are left, then it {what}. State In stops it."
        )
        condition = Condition("Ready", up, "Evacuating", text)
        return _say(disk, device, drive, DiskPhase.EVACUATING, condition, *actions)
    text = f"Drive {drive.id} holds nothing any more. Say Remove to give it up, or In to use it on."
    condition = Condition("Ready", up, "Evacuated", text)
    return _say(disk, device, drive, DiskPhase.EVACUATED, condition)


def _up(disk: StorageDiskView, device: Device, drive: EngineDrive) -> DiskPlan:
    """It may be one that was to be emptied; what a command began is left to who gave it."""
    if not drive.evacuating:
        text = f"Drive {drive.id} is up."
        return _say(disk, device, drive, DiskPhase.UP, Condition("Ready", True, "Up", text))
    if disk.evacuates:
        text = f"Drive {drive.id} keeps what it holds, and takes new copies again."
        condition = Condition("Ready", True, "Kept", text)
        keep = EvacuateDrive(drive.id, stop=True)
        return _say(disk, device, drive, DiskPhase.UP, condition, keep)
    text = (
        f"Drive {drive.id} is evacuated by a command: {drive.groups} placement groups are left. "
        f"`drystone drive evacuate {drive.id} --cancel` stops that."
    )
    return _say(disk, device, drive, DiskPhase.UP, Condition("Ready", True, "InEvacuation", text))


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
    DiskState.EVACUATE: _evacuate,
    DiskState.RETEST: _retest,
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
    if drive.evacuating:
        found["groupsLeft"] = drive.groups
    if drive.strikes:
        found["strikes"] = drive.strikes
    if drive.used is not None:
        found |= {"used": rounded_quantity(drive.used), "usedBytes": drive.used}
    return found
