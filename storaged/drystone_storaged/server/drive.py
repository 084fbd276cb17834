"""The life of one drive in a server: prepare, open, serve, report; a bad drive harms no other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final
from uuid import UUID

from drystone_common.errors import DataError, DeadlineError, DrystoneError, UnavailableError
from drystone_common.logs import get_logger
from drystone_storaged.agent.control import Control
from drystone_storaged.agent.mapfeed import MapFeed
from drystone_storaged.agent.pump import Event
from drystone_storaged.agent.register import FEATURE_LEVEL, Membership
from drystone_storaged.cluster.drives import STOPPED
from drystone_storaged.proto import control_pb2
from drystone_storaged.server.core import ServerCore
from drystone_storaged.server.hanging import within
from drystone_storaged.server.lease import LeaseGate
from drystone_storaged.server.prepare import Preparer, Superblock, serial_of
from drystone_storaged.server.settings import DriveSettings
from drystone_storaged.server.trust import counts_nowhere

OPEN_DEADLINE_S: Final = 900.0
"""Replay is bounded by the checkpoint to seconds; a drive that needs more than this is broken."""

MAP_WAIT_S: Final = 5.0  # for a map that shows the open; without it the open begins anew
CLOSE_S: Final = 10.0  # the native side bounds an orderly end to this, checkpoint included
WHY_S: Final = 1.0
"""A file system says at once how full it is. One that hangs, as a dead mount does, is not waited
for: the manager drops the drive only when it hears of the failure."""

REFUSAL_CHARS: Final = 500  # of a path or reason in a status: a sentence or two

RETRY_MIN_S: Final = 0.5
RETRY_MAX_S: Final = 30.0
"""A drive that cannot be opened is looked at again: a file may come back, a lock may be freed."""

FAILED_CODE: Final = "drive_failed"
"""Why a drive is not served that was: its engine answers no request any more."""

OVER: Final = ("drive_nonce_stale", "drive_not_found")
"""Opened again, or forgotten: what this open did is of no interest any more."""

ROOM_MIN_BYTES: Final = 4 << 20
"""A file system with less for us than this refuses the next segment's write."""

_log = get_logger(__name__)


class DriveState(StrEnum):
    """Where a drive stands."""

    CLOSED = "closed"
    OPENING = "opening"
    SERVING = "serving"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class DriveDeps:
    """What the keepers of a server share."""

    core: ServerCore
    control: Control
    maps: MapFeed
    membership: Membership
    preparer: Preparer
    machine_id: str
    nonce: Callable[[], int]
    carry_out: Callable[[int, Sequence[control_pb2.FreeLayer]], Awaitable[None]]
    """Lets a drive carry out orders; returns when they are durable there."""
    gate: LeaseGate
    refused: Callable[[], None]
    """Called when a drive is refused, or no more: the manager shall know soon."""


class DriveKeeper:
    """Keeps one drive open. ``number`` and ``nonce`` are 0 until the manager knows it."""

    def __init__(self, settings: DriveSettings, slot: int, deps: DriveDeps) -> None:
        self.settings = settings
        self.slot = slot
        self.number = 0
        self.nonce = 0
        self.capacity = 0
        self.store_seen = (0, 0)
        self.state = DriveState.CLOSED
        self.reason = ""
        self.code = ""
        self.suspect = False
        self._deps = deps
        self._failure = ""
        self._outcome: asyncio.Future[Event] | None = None
        self._ended = asyncio.Event()
        self._gone = asyncio.Event()
        self._again = asyncio.Event()

    async def run(self) -> None:
        """Open, serve, and try again after a failure to open; until cancelled."""
        wait_s = RETRY_MIN_S
        while True:
            try:
                await self._open()
            except (DrystoneError, OSError, ValueError) as error:
                self._note(error)
                self._deps.gate.failed(self.slot)
                self._close_native()
                await self._pause(wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)
                continue
            wait_s = RETRY_MIN_S
            await self._ended.wait()
            if self.state is DriveState.FAILED:
                # A device that failed under load is not trusted again before a restart.
                await self._tell_failed()
                return
            self._close_native()

    def on_ready(self, event: Event) -> None:
        """Take `drive_ready`."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(event)

    def on_failed(self, event: Event) -> None:
        """Take `drive_failed`, `invariant`, or the engine's report that it answers no more."""
        if self._outcome is not None and not self._outcome.done():
            self._outcome.set_result(event)
            return
        reason = str(event.get("reason") or event.get("what") or "failed")
        if self.state is DriveState.OPENING:
            # It was ready, and failed before it serves.
            self._failure = reason
        elif self.state is DriveState.SERVING:
            self.state, self.code, self.reason = DriveState.FAILED, FAILED_CODE, reason
            self._ended.set()
            self._deps.refused()

    async def _tell_failed(self) -> None:
        """Say why, and tell the manager until it has taken it: it may be in need itself."""
        path = Path(self.settings.path)
        with contextlib.suppress(OSError):  # a TimeoutError is one: the word must not wait for it
            self.reason += await within(lambda: why_failed(path), WHY_S)
        _log.error("drive_failed", drive=self.number, path=self.settings.path, reason=self.reason)
        self._deps.refused()
        wait_s = RETRY_MIN_S
        while True:
            try:
                await self._report(control_pb2.DRIVE_STATE_FAILED, self.reason)
            except DrystoneError as error:
                _log.warning("drive_failed_not_told", drive=self.number, reason=str(error))
                if error.code in OVER:
                    return
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MAX_S)
                continue
            return

    def map_changed(self) -> None:
        """Look again at once where a newer map lets a new drive take the place of a lost one."""
        if self.code == "drive_lost" and self._deps.preparer.is_free(self.settings.key):
            self._again.set()

    def reopen(self) -> None:
        """Open anew: the map gives the content of this suspect drive no credit any more."""
        _log.warning("drive_reopened_as_blank", drive=self.number)
        self.state = DriveState.CLOSED
        self._ended.set()

    async def ready_again(self) -> None:
        """Tell the manager that the drive serves, whatever it believed."""
        await self._report(control_pb2.DRIVE_STATE_READY, "")

    async def closed(self) -> None:
        """Tell the manager that no request of this drive is answered any more."""
        if self.state is DriveState.SERVING:
            self.state = DriveState.CLOSED
            await self._report(control_pb2.DRIVE_STATE_CLOSED, STOPPED)

    async def retire(self, why: str) -> None:
        """Serve no more and say why; whoever runs this drive has ended ``run`` before."""
        self.state = DriveState.CLOSED
        if not self.number:
            return
        self._gone.clear()
        try:
            self._deps.core.close_drive(self.number)
        except Exception:  # noqa: BLE001 - the module's own type: it is not open
            _log.info("drive_was_closed", drive=self.number)
        else:
            try:
                async with asyncio.timeout(CLOSE_S):
                    await self._gone.wait()
            except TimeoutError:
                # It may still answer: "closed" would be a promise that nobody can give.
                _log.warning("drive_not_closed", drive=self.number)
                return
        with contextlib.suppress(DrystoneError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._report(control_pb2.DRIVE_STATE_CLOSED, why)

    def on_closed(self, _: Event) -> None:
        """Take `drive_closed`."""
        self._gone.set()

    @property
    def uuid(self) -> str:
        """The drive that was last in this place; empty if there was none."""
        return self._deps.preparer.uuid_of(self.settings.key)

    async def _pause(self, limit_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._again.wait()
        self._again.clear()

    async def _open(self) -> None:
        self.state = DriveState.OPENING
        block = await self._deps.preparer.prepare(self.settings)
        self.capacity = block.size
        self.store_seen = (block.incarnation, block.revision)
        opened = await self._take_into_use(block)
        self.number = opened.drive
        self._ended.clear()
        self._failure = ""
        self._outcome = asyncio.get_running_loop().create_future()
        try:
            self._start(opened, clear_suspect=await self._counts_nowhere(opened))
            event = await self._await_outcome(self._outcome)
        finally:
            self._outcome = None
        _log.info(
            "drive_open", drive=self.number, path=self.settings.path, open_us=event["open_us"],
            replayed_bytes=event["replayed_bytes"], suspect=event["suspect"],
        )  # fmt: skip
        self.suspect = event["suspect"] is not None
        if opened.orders and not self.suspect:
            await self._deps.carry_out(self.number, tuple(opened.orders))
        if self._failure:
            await self._report(control_pb2.DRIVE_STATE_FAILED, self._failure)
            raise DataError(
                f"{self.settings.path} failed at its open: {self._failure}",
                code="drive_open_failed",
            )
        self.state, self.reason, self.code = DriveState.SERVING, "", ""
        await self._report(control_pb2.DRIVE_STATE_READY, "")
        self._deps.gate.ready(self.slot)
        self._deps.refused()

    async def _take_into_use(self, block: Superblock) -> control_pb2.OpenDriveResponse:
        self.nonce = self._deps.nonce()
        serial = await asyncio.to_thread(
            serial_of, self.settings.path, self._deps.machine_id, self.settings.device_id
        )
        request = control_pb2.OpenDriveRequest(
            uuid=bytes.fromhex(block.uuid.replace("-", "")),
            serial=serial,
            nonce=self.nonce,
            previous_nonce=block.nonce,
            capacity_bytes=block.size,
            addr=self.settings.listen,
            incarnation=block.incarnation,
            highest_revision=block.revision,
            feature_level=FEATURE_LEVEL,
            cluster=self._deps.membership.cluster.bytes,
            device=self.settings.device_id,
            device_class=self.settings.kind,
        )
        return await self._deps.control.call(lambda stub: stub.OpenDrive, request)

    async def _counts_nowhere(self, opened: control_pb2.OpenDriveResponse) -> bool:
        """Whether a suspicion noted on the drive is over, by a map that shows the open."""
        maps = self._deps.maps
        try:
            async with asyncio.timeout(MAP_WAIT_S):
                await maps.wait_for(opened.map_revision)
        except TimeoutError as error:
            # By an older map the drive might answer reads in groups that dropped it since.
            raise UnavailableError(
                "no map that shows the open came from a manager", code="map_missing"
            ) from error
        return await asyncio.to_thread(counts_nowhere, maps.data, opened.drive)

    def _start(self, opened: control_pb2.OpenDriveResponse, *, clear_suspect: bool) -> None:
        config = {
            "drive": opened.drive,
            "path": self.settings.path,
            "nonce": self.nonce,
            "revision": opened.store_revision,
            "listen": self.settings.listen,
            "slot": self.slot,
            "power_loss_protected": self.settings.power_loss_protected,
            "clear_suspect": clear_suspect,
        }
        try:
            self._deps.core.open_drive(json.dumps(config))
        except Exception as error:
            # The module's own exception type is not importable where a fake stands in for it.
            raise DataError(
                f"{self.settings.path} cannot be served at {self.settings.listen}: {error}",
                code="drive_open_failed",
                hint="see whether another process uses the address or the file",
            ) from error

    async def _await_outcome(self, outcome: asyncio.Future[Event]) -> Event:
        try:
            async with asyncio.timeout(OPEN_DEADLINE_S):
                event = await outcome
        except TimeoutError as error:
            raise DeadlineError(
                f"{self.settings.path} was not open after {OPEN_DEADLINE_S:.0f} s",
                code="drive_open_slow",
            ) from error
        if event["kind"] == "drive_ready":
            return event
        reason = str(event.get("reason") or event.get("what") or "it failed at once")
        await self._report(control_pb2.DRIVE_STATE_FAILED, reason)
        raise DataError(
            f"{self.settings.path} cannot be opened: {reason}", code="drive_open_failed"
        )

    async def _report(self, state: control_pb2.DriveState.ValueType, reason: str) -> None:
        request = control_pb2.ReportDriveRequest(
            drive=self.number, nonce=self.nonce, state=state, reason=reason[:500]
        )
        await self._deps.control.call(lambda stub: stub.ReportDrive, request)

    def _close_native(self) -> None:
        """End the thread of an open that did not succeed to the end; often there is none."""
        if self.number:
            with contextlib.suppress(Exception):
                self._deps.core.close_drive(self.number)

    def _note(self, error: Exception) -> None:
        """Log a reason once, not at every try."""
        self.state = DriveState.CLOSED
        if str(error) != self.reason:
            self.code = error.code if isinstance(error, DrystoneError) else "drive_unusable"
            self.reason = str(error)
            _log.error("drive_refused", path=self.settings.path, code=self.code, reason=self.reason)
            self._deps.refused()

    @property
    def refusal(self) -> control_pb2.RefusedDrive | None:
        """Why this drive is not served; None while it is, or is tried for the first time."""
        if not self.code:
            return None
        uuid = self.uuid
        return control_pb2.RefusedDrive(
            uuid=UUID(uuid).bytes if uuid else b"",
            path=self.settings.path[:REFUSAL_CHARS],
            code=self.code,
            reason=self.reason[:REFUSAL_CHARS],
        )


def why_failed(path: Path) -> str:
    """What the machine shows of the cause; empty where it shows nothing."""
    if not stat.S_ISREG(path.stat().st_mode):
        return ""
    system = os.statvfs(path)
    if system.f_bavail * system.f_frsize >= ROOM_MIN_BYTES:
        return ""
    return (
        f": the file system of {path} is full (ENOSPC): free space there, then restart this server"
    )
