"""The devices of storage nodes: what servers report, what is wanted of them, what may be asked.

Reports are in memory and end with the server's session; what is wanted is in the metadata store.
Nothing here decides about formatting: the server looks again, right before it, by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from drystone_common.errors import ConflictError, DeadlineError, NotFoundError
from drystone_common.logs import get_logger
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.drives import REMOVED
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.records import Drive, DriveState, Node, WantedDrive
from drystone_storaged.cluster.store import Compare, MetadataStore, Put
from drystone_storaged.cluster.wanted import DRIVES_MAX, ID_MAX, MOVABLE, WantedService
from drystone_storaged.manager.control.sessions import SessionRegistry
from drystone_storaged.proto import control_pb2 as pb

DEVICES_MAX: Final = 256  # of one node, as many as a server reports; no machine of ours has more
TEXT_MAX: Final = 500  # of a reason or a finding: a sentence or two
LOOK_S: Final = 30.0
"""For a look at every device of a node: the server bounds each probe to 10 s, several at a time."""

STATES: Final = {
    pb.DEVICE_STATE_BLANK: "blank",
    pb.DEVICE_STATE_OURS: "ours",
    pb.DEVICE_STATE_IN_USE: "in_use",
}
"""Anything else, of a later program too, is `foreign`: not to be touched."""

PHASES: Final = {
    pb.WANTED_PHASE_FORMATTING: "formatting",
    pb.WANTED_PHASE_OPENING: "opening",
    pb.WANTED_PHASE_UP: "up",
    pb.WANTED_PHASE_REFUSED: "refused",
}
CLASSES: Final = ("nvme", "ssd", "hdd", "file")

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Device:
    """One device as its server sees it, and as the cluster does (`used_elsewhere`)."""

    id: str
    path: str
    size: int
    device_class: str
    serial: str
    wwn: str
    model: str
    state: str
    found: str
    drive: str
    configured: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a wanted drive is; ``uuid`` is empty before the format."""

    state: str = "pending"
    code: str = ""
    reason: str = ""
    uuid: str = ""


@dataclass(frozen=True, slots=True)
class NodeDevices:
    """What is known of a node's devices now."""

    connected: bool
    discovers: bool
    devices: tuple[Device, ...]


class DeviceReports:
    """The newest word of each connected server. Everything is bounded: servers may be mad."""

    def __init__(self) -> None:
        self._devices: dict[str, tuple[bool, tuple[Device, ...]]] = {}
        self._wanted: dict[str, dict[str, Progress]] = {}

    def report(self, node: str, told: pb.Devices) -> None:
        """Take over a complete list of devices."""
        devices = tuple(_device(d) for d in told.devices[:DEVICES_MAX] if 0 < len(d.id) <= ID_MAX)
        self._devices[node] = (told.discovers, devices)

    def report_wanted(self, node: str, told: pb.WantedStates) -> None:
        """Take over how far each wanted drive is."""
        self._wanted[node] = {
            d.device: Progress(
                PHASES.get(d.phase, "pending"),
                d.code[:TEXT_MAX],
                d.reason[:TEXT_MAX],
                _uuid(d.uuid),
            )
            for d in told.drives[:DRIVES_MAX]
        }

    def forget(self, node: str) -> None:
        """Its process is gone; the next one tells everything."""
        self._devices.pop(node, None)
        self._wanted.pop(node, None)

    def clear(self) -> None:
        """Forget everything: the servers tell it to another manager now."""
        self._devices.clear()
        self._wanted.clear()

    def of(self, node: str) -> tuple[bool, tuple[Device, ...]] | None:
        """Whether the server looks for devices, and what it sees; None before its first word."""
        return self._devices.get(node)

    def progress(self, node: str, device: str) -> Progress:
        """How far a wanted drive is."""
        return self._wanted.get(node, {}).get(device, Progress())


class DeviceDesk:
    """Answers and requests about devices; ``node`` is always a storage node."""

    def __init__(
        self,
        store: MetadataStore,
        wanted: WantedService,
        sessions: SessionRegistry,
        reports: DeviceReports,
    ) -> None:
        self._store = store
        self._wanted = wanted
        self._sessions = sessions
        self.reports = reports

    async def message(self, node: str) -> pb.SessionDown:
        """What a server shall serve, complete."""
        record, revision = await self._wanted.of(node)
        drives = [
            pb.WantedDrive(
                device=d.device, slot=d.slot, power_loss_protected=d.power_loss_protected
            )
            for d in record.drives
        ]
        return pb.SessionDown(wanted=pb.WantedDrives(drives=drives, revision=revision))

    async def look(self, node: Node) -> None:
        """Let a connected server look now; its report is here when this returns."""
        if self._sessions.get(("server", node.uuid)) is not None:
            command = pb.Command(look=pb.LookAtDevices())
            await self._sessions.command(node.uuid, command, LOOK_S)

    async def devices(self, node: Node, state: MapState) -> NodeDevices:
        """The devices of a node as the cluster sees them."""
        connected = self._sessions.get(("server", node.uuid)) is not None
        told = self.reports.of(node.uuid)
        if told is None:
            return NodeDevices(connected, discovers=False, devices=())
        holders = await self._wanted.holders()
        drives = {d.uuid: d for d in state.drives.values() if d.state is DriveState.UP}
        seen = tuple(_elsewhere(node, device, holders, drives) for device in told[1])
        return NodeDevices(connected, told[0], seen)

    async def wanted(self, node: Node) -> list[tuple[WantedDrive, Progress]]:
        """What a node shall serve, and how far each is."""
        record, _ = await self._wanted.of(node.uuid)
        return [(d, self.reports.progress(node.uuid, d.device)) for d in record.drives]

    async def add(
        self, node: Node, which: str, *, power_loss_protected: bool, state: MapState
    ) -> tuple[WantedDrive, bool]:
        """Take a device into use; what is known to be in the way is refused at once.

        A device of a server that is not connected is taken on trust: the server checks it anyway.
        """
        device = await self._wanted_id(node, which, state)
        if device not in {d.device for d, _ in await self.wanted(node)}:
            try:
                device = await self._usable(node, which, state)
            except (ConflictError, NotFoundError) as refusal:
                # It may just have been plugged in, unmounted or wiped.
                try:
                    await self.look(node)
                except DeadlineError:
                    raise refusal from None
                device = await self._usable(node, which, state)
        drive, added = await self._wanted.add(
            node, device, power_loss_protected=power_loss_protected
        )
        if added:
            _log.info("drive is wanted", node=node.name, device=device, slot=drive.slot)
            await self._push(node)
        return drive, added

    async def remove(self, node: Node, which: str) -> None:
        """Take a device out of use; refused while a placement group counts on it."""
        state = await read_state(self._store)
        state.require()  # one whose record cannot be read might be in it, and hold data
        device = await self._wanted_id(node, which, state)
        conditions = []
        for drive in state.drives.values():
            if (drive.node, drive.device) != (node.uuid, device) or drive.state is DriveState.GONE:
                continue
            _refuse_held(state, drive)
            conditions.append(await self._retire(drive, state.drive_revisions[drive.id]))
        await self._wanted.remove(node, device, tuple(conditions))
        _log.info("drive is wanted no more", node=node.name, device=device)
        await self._push(node)

    async def _retire(self, drive: Drive, revision: int) -> Compare:
        """Down first: from here on no pool and no empty place takes the drive any more."""
        key = keys.drive(drive.id)
        # Added again one day it is a drive like any other.
        new = replace(drive, state=DriveState.DOWN, reason=REMOVED, evacuating=False)
        if new == drive:
            return Compare.mod(key, revision)
        done = await self._store.txn([Compare.mod(key, revision)], [Put(key, encode(new))])
        if not done.succeeded:
            raise ConflictError(
                f"drive {drive.id} changed meanwhile", code="contended", hint="repeat the call"
            )
        return Compare.mod(key, done.revision)

    async def _push(self, node: Node) -> None:
        session = self._sessions.get(("server", node.uuid))
        if session is not None:
            session.send(await self.message(node.uuid))

    async def _usable(self, node: Node, which: str, state: MapState) -> str:
        """The id of a device that nothing is known against."""
        found = await self._find(node, which, state)
        if found is None:
            return which
        _refuse(node, found)
        return found.id

    async def _find(self, node: Node, which: str, state: MapState) -> Device | None:
        """A device by id or path; None where nothing can be said yet."""
        known = await self.devices(node, state)
        for device in known.devices:
            if which in (device.id, device.path):
                return device
        if self.reports.of(node.uuid) is None:
            return None
        hint = f"see `drystone node devices {node.name}`"
        if not known.discovers:
            hint = "its server does not look for devices: set `drive_listen` and `discover` there"
        raise NotFoundError(
            f"node {node.name} has no device {which[:80]!a}", code="device_not_found", hint=hint
        )

    async def _wanted_id(self, node: Node, which: str, state: MapState) -> str:
        """The id of a device that is named by id or by its path of today."""
        ids = {d.device for d, _ in await self.wanted(node)}
        if which in ids:
            return which
        seen = (await self.devices(node, state)).devices
        return next((d.id for d in seen if which == d.path and d.id in ids), which)


def _refuse(node: Node, device: Device) -> None:
    where = f"{device.id} on node {node.name}"
    if device.configured:
        raise ConflictError(
            f"{where} is a drive of the server's settings",
            code="device_in_use",
            hint="it is served already; take it out of the settings to manage it here",
        )
    if device.state == "used_elsewhere":
        raise ConflictError(
            f"{where} is in use elsewhere: {device.found}",
            code="device_used_elsewhere",
            hint="take it out of use there first",
        )
    if device.state == "in_use":
        raise ConflictError(
            f"{where} is in use: {device.found}",
            code="device_in_use",
            hint="unmount it or stop what uses it, then repeat",
        )
    if device.state == "foreign":
        raise ConflictError(
            f"{where} is not blank: {device.found}",
            code="device_not_blank",
            hint="nothing that holds data is ever formatted; if that is not needed, wipe it by "
            "hand (signatures, first and last MiB), then repeat",
        )


def _refuse_held(state: MapState, drive: Drive) -> None:
    """A drive that a PG counts on, as a copy or as the place for one, stays."""
    held = [
        ref
        for ref, pg in state.pgs().items()
        if drive.id in (*pg.members(), *pg.target) or pg.out_since(drive.id)
    ]
    if not held:
        return
    first = min(held, key=lambda ref: (ref.pool, ref.pg))
    raise ConflictError(
        f"drive {drive.id} holds data of {len(held)} placement groups, the first is "
        f"{state.pools[first.pool].name}/{first.pg}",
        code="drive_holds_data",
        hint=f"move it to others first: `drystone drive evacuate {drive.id} --wait`, then repeat; "
        f"of a drive that is lost for good `drystone drive forget {drive.id} --yes`",
    )


def _elsewhere(
    node: Node, device: Device, holders: Mapping[str, str], drives: Mapping[str, Drive]
) -> Device:
    if device.id.startswith(MOVABLE) and holders.get(device.id, node.uuid) != node.uuid:
        return replace(device, state="used_elsewhere", found="a drive of another node")
    drive = drives.get(device.drive)
    if drive is not None and drive.node != node.uuid:
        found = f"drive {drive.id} of {drive.node_name}"
        return replace(device, state="used_elsewhere", found=found)
    return device


def _device(told: pb.Device) -> Device:
    return Device(
        told.id,
        told.path[:TEXT_MAX],
        told.size_bytes,
        told.device_class if told.device_class in CLASSES else "hdd",
        told.serial[:TEXT_MAX],
        told.wwn[:TEXT_MAX],
        told.model[:TEXT_MAX],
        STATES.get(told.state, "foreign"),
        told.found[:TEXT_MAX],
        _uuid(told.drive),
        told.configured,
    )


def _uuid(raw: bytes) -> str:
    return str(UUID(bytes=raw)) if len(raw) == len(UUID(int=0).bytes) else ""
