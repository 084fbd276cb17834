"""The drives that the manager wants: found by their ids, opened, closed, opened again.

Each has a port and a slot of the lease page that stay its own for as long as it is wanted. The
drives of the settings take slots from the first one up, these from the last one down.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from drystone_common.errors import ConflictError, InvalidArgumentError
from drystone_common.logs import get_logger
from drystone_storaged.cluster.drives import REMOVED
from drystone_storaged.proto import control_pb2
from drystone_storaged.server.discover import Discovery, Seen, Served, message_of
from drystone_storaged.server.drive import DriveDeps, DriveKeeper, DriveState
from drystone_storaged.server.examine import Examiner
from drystone_storaged.server.lease import UNKNOWN, LeaseGate
from drystone_storaged.server.settings import DriveSettings, ServerSettings, WantedSettings

PAGE_SLOTS: Final = 64  # of the lease page (`SLOTS` of the native side)
WANTED_MAX: Final = 12  # of one node, the manager's own limit; what is beyond it is not from it
CONFIGURED_MAX: Final = PAGE_SLOTS - WANTED_MAX
PORT_MAX: Final = 65_535
TEXT_MAX: Final = 500  # of a reason in a message
OPENED_ANEW: Final = "its device moved or came back: it is opened anew"

Phase = control_pb2.WantedPhase
Start = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]
Send = Callable[[control_pb2.SessionUp], None]

_log = get_logger(__name__)


class DeviceGuard:
    """Looks at a drive's device right before it is opened or formatted, by the same process."""

    def __init__(self, discovery: Discovery, examiner: Examiner) -> None:
        self._discovery = discovery
        self._examiner = examiner

    async def identify(self, drive: DriveSettings) -> None:
        """Raise unless the path still leads to a wanted device, and what is there answers."""
        device = drive.device_id
        if device and not await self._discovery.is_still(device, drive.path):
            raise ConflictError(
                f"{drive.path} is not {device} any more",
                code="drive_moved",
                hint="the server looks where it is now and tries again by itself",
            )
        # Here a dead disk costs a thread of its own, later one that all others need.
        await self._examiner.require_answer(drive.path)

    async def require_blank(self, drive: DriveSettings) -> None:
        """Raise unless nothing is on the device, and it still is that device."""
        if drive.device_id:
            await self._examiner.require_blank(drive.path)
            await self.identify(drive)


@dataclass(slots=True)
class _Member:
    """A wanted drive that was found here."""

    keeper: DriveKeeper
    task: asyncio.Task[None]
    sequence: str
    was_away: bool = False


class Fleet:
    """Brings what is served in line with what is wanted and what is there."""

    def __init__(
        self,
        settings: ServerSettings,
        drives: list[DriveKeeper],
        gate: LeaseGate,
        send: Send,
    ) -> None:
        self._listen = parse_listen(settings.drive_listen) if settings.drive_listen else None
        self._on = self._listen is not None and settings.discover
        self._drives = drives
        self._gate = gate
        self._send = send
        self._discovery: Discovery | None = None
        self._deps: DriveDeps | None = None
        self._start: Start | None = None
        self._wanted: dict[str, control_pb2.WantedDrive] = {}
        self._members: dict[str, _Member] = {}
        self._revision = -1
        self._named = False
        self._work = asyncio.Event()
        self._told: dict[str, object] = {}
        self._uuids: dict[str, bytes] = {}
        if len(settings.drives) > CONFIGURED_MAX and self._on:
            raise InvalidArgumentError(
                f"{len(settings.drives)} drives in the settings, {CONFIGURED_MAX} at most beside "
                "those that the manager asks for",
                code="invalid_settings",
                hint="use fewer drives a node, or leave `drive_listen` out",
            )
        if self._on:
            gate.hold(UNKNOWN)

    def wire(self, discovery: Discovery, deps: DriveDeps, start: Start) -> None:
        """Hand over what is made after this."""
        self._discovery, self._deps, self._start = discovery, deps, start
        if self._on:
            discovery.on_look.append(self._looked)
        deps.preparer.on_format = self.changed

    def served(self) -> Mapping[str, Served]:
        """What is not to be examined from outside, by id or by the settings' path."""
        wanted = {
            device: Served(member.keeper.uuid)
            for device, member in self._members.items()
            if member.keeper.state is not DriveState.CLOSED
        }
        configured = {
            d.settings.path: Served(d.uuid, configured=True)
            for d in self._drives
            if not d.settings.device_id
        }
        return {**configured, **wanted}

    def session_opened(self) -> None:
        """A new session is told everything, and tells everything."""
        self._revision = -1
        self._told = {}
        if not self._on:
            self._send(control_pb2.SessionUp(devices=control_pb2.Devices(discovers=False)))
        elif self._discovery is not None:
            self._discovery.ask()
        self.changed()

    def take(self, message: control_pb2.WantedDrives) -> None:
        """Take the complete list of wanted devices; an older one than seen is history."""
        if message.revision < self._revision:
            return
        self._revision = message.revision
        self._wanted = {d.device: d for d in message.drives[:WANTED_MAX] if d.slot < WANTED_MAX}
        if self._on and not self._named:
            # Those that are there hold the lease back until they are open, as at any start.
            self._named = True
            for drive in self._wanted.values():
                self._gate.hold(page_slot(drive.slot))
            self._gate.failed(UNKNOWN)
        if self._discovery is not None and self._on:
            self._discovery.ask()
        self.changed()

    def seen(self) -> tuple[Seen, ...]:
        """The devices of the last look."""
        return self._discovery.seen if self._discovery is not None else ()

    def states(self) -> list[control_pb2.WantedState]:
        """How far each wanted drive is."""
        return [self._state(wanted) for wanted in self._wanted.values()]

    def changed(self) -> None:
        """Something may have to be done or told."""
        self._work.set()

    async def look(self) -> None:
        """Look at the devices now and tell the manager."""
        if self._discovery is not None and self._on:
            await self._discovery.look()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            if self._on and self._discovery is not None and self._discovery.looked:
                await self._reconcile(self._discovery)
            self._tell_states()

    def _looked(self) -> None:
        if self._discovery is not None:
            self._tell("devices", control_pb2.SessionUp(devices=message_of(self._discovery.seen)))
        self.changed()

    async def _reconcile(self, discovery: Discovery) -> None:
        leaving = [d for d, m in self._members.items() if self._must_go(d, m, discovery.find(d))]
        await asyncio.gather(*(self._retire(device) for device in leaving))
        for device, wanted in self._wanted.items():
            if device in self._members:
                continue
            seen = discovery.find(device)
            if seen is None or seen.configured:
                self._gate.failed(page_slot(wanted.slot))
            else:
                self._begin(wanted, seen)

    def _must_go(self, device: str, member: _Member, seen: Seen | None) -> bool:
        """Whether a drive is to be closed: not wanted, or to be opened anew at once."""
        wanted = self._wanted.get(device)
        if wanted is None:
            return True
        keeper = member.keeper
        if keeper.settings.power_loss_protected != wanted.power_loss_protected:
            return True
        if seen is None:
            member.was_away = True
            # What is served may be served from an open file; what is refused waits for the device.
            return keeper.state is DriveState.CLOSED
        if keeper.state is DriveState.CLOSED:
            return keeper.settings.path != seen.disk.path
        back = member.was_away or member.sequence != seen.disk.sequence
        if keeper.state is DriveState.FAILED and back:
            _log.warning("drive_device_back", device=device, path=seen.disk.path)
            return True
        return False

    def _begin(self, wanted: control_pb2.WantedDrive, seen: Seen) -> None:
        if self._deps is None or self._start is None or self._listen is None:
            return
        host, port = self._listen
        settings = WantedSettings(
            path=seen.disk.path,
            listen=f"{host}:{port + wanted.slot}",
            init=True,
            power_loss_protected=wanted.power_loss_protected,
            device=wanted.device,
            device_class=seen.disk.device_class,
        )
        slot = page_slot(wanted.slot)
        self._gate.hold(slot)
        keeper = DriveKeeper(settings, slot, self._deps)
        self._drives.append(keeper)
        task = self._start(keeper.run(), f"drive-{wanted.device}")
        task.add_done_callback(lambda _: self.changed())
        self._members[wanted.device] = _Member(keeper, task, seen.disk.sequence)
        _log.info("drive_taken", device=wanted.device, path=settings.path, listen=settings.listen)

    async def _retire(self, device: str) -> None:
        member = self._members[device]
        member.task.cancel()
        await asyncio.gather(member.task, return_exceptions=True)
        await member.keeper.retire(OPENED_ANEW if device in self._wanted else REMOVED)
        self._gate.failed(member.keeper.slot)
        self._drives.remove(member.keeper)
        del self._members[device]
        _log.info("drive_given_up", device=device, wanted=device in self._wanted)

    def _tell_states(self) -> None:
        states = self.states()
        message = control_pb2.WantedStates(drives=states)
        self._tell("wanted", control_pb2.SessionUp(wanted=message))
        uuids = {s.device: s.uuid for s in states if s.uuid}
        if uuids != self._uuids:
            # The list of devices says which drive is on each: not only at the next full look.
            self._uuids = uuids
            if self._discovery is not None and self._on:
                self._discovery.ask()

    def _tell(self, what: str, message: control_pb2.SessionUp) -> None:
        """Send what this session was not told yet."""
        if self._told.get(what) != message:
            self._told[what] = message
            self._send(message)

    def _state(self, wanted: control_pb2.WantedDrive) -> control_pb2.WantedState:
        phase, code, reason, uuid = self._look_up(wanted.device)
        return control_pb2.WantedState(
            device=wanted.device,
            phase=phase,
            code=code,
            reason=reason[:TEXT_MAX],
            uuid=UUID(uuid).bytes if uuid else b"",
        )

    def _look_up(self, device: str) -> tuple[control_pb2.WantedPhase.ValueType, str, str, str]:
        if not self._on:
            reason = "its server has no `drive_listen`, or `discover = false`"
            return Phase.WANTED_PHASE_REFUSED, "discovery_off", reason, ""
        member = self._members.get(device)
        if member is None:
            seen = self._discovery.find(device) if self._discovery else None
            if seen is not None and seen.configured:
                reason = "it is a drive of the server's settings"
                return Phase.WANTED_PHASE_REFUSED, "device_in_use", reason, ""
            return Phase.WANTED_PHASE_PENDING, "", "no such device is seen on this node", ""
        return _phase_of(member.keeper, self._deps)


def _phase_of(
    keeper: DriveKeeper, deps: DriveDeps | None
) -> tuple[control_pb2.WantedPhase.ValueType, str, str, str]:
    uuid = keeper.uuid
    if keeper.state is DriveState.SERVING:
        return Phase.WANTED_PHASE_UP, "", "", uuid
    if keeper.state is DriveState.FAILED:
        return Phase.WANTED_PHASE_REFUSED, "drive_failed", keeper.reason, uuid
    if deps is not None and keeper.settings.key in deps.preparer.formatting:
        return Phase.WANTED_PHASE_FORMATTING, "", "", uuid
    if keeper.code:  # also while it is tried again: the reason stands until it does well
        return Phase.WANTED_PHASE_REFUSED, keeper.code, keeper.reason, uuid
    return Phase.WANTED_PHASE_OPENING, "", "", uuid


def page_slot(slot: int) -> int:
    """The slot of the lease page of a wanted drive."""
    return PAGE_SLOTS - 1 - slot


def parse_listen(listen: str) -> tuple[str, int]:
    """`host:port` of the first wanted drive; all others must fit above it."""
    host, _, port = listen.rpartition(":")
    fits = port.isascii() and port.isdecimal() and 0 < int(port[:6]) <= PORT_MAX - WANTED_MAX
    if not host or not fits:
        raise InvalidArgumentError(
            f"drive_listen {listen[:80]!a} is not host:port with {WANTED_MAX} ports above it",
            code="invalid_settings",
            hint='write it like "192.0.2.1:8470": an address at which others reach this node',
        )
    return host, int(port)
