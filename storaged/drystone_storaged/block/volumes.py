"""Every attachment of this node: attach, detach, re-adopt after a restart, resize.

One operation a volume at a time. Each is written so that repeating it after any interruption goes
on where it stopped: what was granted is on disk, what runs is in the engine, what is a device is
in the kernel.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from drystone_common.errors import (
    ConflictError,
    DeadlineError,
    DrystoneError,
    NotFoundError,
    UnavailableError,
)
from drystone_common.logs import get_logger
from drystone_storaged.agent.mapfeed import MapFeed
from drystone_storaged.attach.interface import AttacherKind, AttachSpec, Device, Endpoint
from drystone_storaged.block.devices import Devices
from drystone_storaged.block.engine import Engine, EngineState
from drystone_storaged.block.grants import GONE, Grant, Grants
from drystone_storaged.block.records import Record, Records

ACTIVE_WAIT_S: Final = 50.0
"""An attach waits for drops (5 s each at worst); callers give a minute and repeat."""

DRAIN_WAIT_S: Final = 30.0  # writes in flight end when their servers answer or are dropped
FORCE_WAIT_S: Final = 3.0  # then the volume is fenced here and what is queued is lost
RESIZE_WAIT_S: Final = 30.0  # a ticket is in force when every server has persisted it
LOCK_WAIT_S: Final = 5.0  # for another operation on the same volume; then "busy"
READOPT_AGAIN_S: Final = 2.0  # after a re-adoption that failed for a reason that may pass

_T = TypeVar("_T")
_log = get_logger(__name__)


@dataclass(slots=True)
class Attached:
    """One attachment as this process knows it.

    ``gone``: fenced for good, the reason for people. ``waiting``: what it waits for.
    """

    record: Record
    device: Device | None = None
    gone: str = ""
    waiting: str = ""
    readopting: bool = False


class Volumes:
    """See the module. ``sockets`` is the folder of the NBD sockets."""

    def __init__(
        self,
        *,
        records: Records,
        grants: Grants,
        devices: Devices,
        maps: MapFeed,
        sockets: Path,
        near: str,
    ) -> None:
        self._records = records
        self._grants = grants
        self._devices = devices
        self._maps = maps
        self._sockets = sockets
        self._near = near
        self._known: dict[int, Attached] = {}
        self._locks: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.engine: Engine

    def list(self) -> list[Attached]:
        """Everything here, by volume id."""
        return [self._known[volume] for volume in sorted(self._known)]

    def get(self, volume: int) -> Attached | None:
        """One attachment."""
        return self._known.get(volume)

    def endpoint(self, volume_id: str) -> Endpoint:
        """Where a volume's export is; the same after every restart."""
        return Endpoint(self._sockets / f"{volume_id}.sock", volume_id)

    async def attach(
        self, volume: int, *, read_only: bool, wanted: AttacherKind | None
    ) -> Attached:
        """Make the volume usable here and return when it is."""
        async with self._alone(volume):
            attached = self._known.get(volume)
            if attached is None:
                kind = self._devices.choose(wanted)
                await self._devices.get(kind)  # refuses before anything is asked for
                attached = await self._grant(Record(volume, read_only, kind, ()))
            else:
                _check_same(attached, read_only=read_only, wanted=wanted)
            await self._bring_up(attached)
            return attached

    async def detach(self, volume: int, *, force: bool) -> None:
        """Remove the device, drain, give the attachment back."""
        async with self._alone(volume):
            attached = self._known.get(volume)
            if attached is None:
                return
            attacher = await self._devices.get(attached.record.attacher)
            await attacher.detach(attached.record.volume_id, force=force)
            attached.device = None
            clean = await self._end(volume, force=force)
            try:
                await self._grants.detach(
                    attached.record, clean=clean, within_s=FORCE_WAIT_S if force else DRAIN_WAIT_S
                )
            except DrystoneError as error:
                if not force:
                    raise
                _log.warning("detach_not_told", volume=attached.record.volume_id, reason=str(error))
            self._forget(volume)

    async def resize(self, volume: int, size_min: int) -> Attached:
        """Take over the recorded size; returns when the device shows it."""
        async with self._alone(volume):
            attached = self._known.get(volume)
            if attached is None:
                raise _not_attached(volume)
            await self._bring_up(attached)
            await self._renew(attached)
            if attached.record.size_bytes < size_min:
                raise ConflictError(
                    f"the volume has {attached.record.size_bytes} bytes, not {size_min}",
                    code="size_not_recorded",
                    hint="resize the volume at the manager first",
                )
            attacher = await self._devices.get(attached.record.attacher)
            attached.device = await attacher.resize(
                attached.record.volume_id, attached.record.size_bytes
            )
            return attached

    async def readopt_all(self) -> None:
        """After a start: bring back what was attached, each volume on its own."""
        for record in self._records.load():
            self._known[record.volume] = Attached(
                record, waiting="waiting for the manager", readopting=True
            )
        await asyncio.gather(*(self._readopt(volume) for volume in list(self._known)))

    async def refresh(self, volume: int) -> None:
        """The manager says that something changed: a size, most often."""
        try:
            await self.resize(volume, 0)
        except DrystoneError as error:
            _log.warning("refresh_failed", volume=volume, reason=str(error))

    async def revoked(self, volume: int, nonce: int, generation: int) -> None:
        """The record has no such attachment any more: answer EIO from here on."""
        attached = self._known.get(volume)
        if attached is None or nonce not in attached.record.nonces:
            return
        attached.gone = f"another attachment took the volume in generation {generation}"
        if self.engine.get(volume) is not None:
            self.engine.core.revoked(volume)

    async def after_fence(self, volume: int) -> None:
        """A server refused our generation: gone for good, unless the record still has us."""
        attached = self._known.get(volume)
        found = self.engine.get(volume)
        if attached is None or found is None or attached.gone:
            return
        fenced = found.generation or attached.record.generation
        try:
            async with self._alone(volume):
                grant, _ = await self._grants.ticket(attached.record)
                if grant.record.generation <= fenced:
                    return
                attached.record = grant.record
                _log.info("attaching_again", volume=attached.record.volume_id)
                await self.engine.end(volume)
                await self._start(attached, grant)
        except DrystoneError as error:
            if error.code in GONE:
                attached.gone = "another attachment took the volume"
            _log.warning("fenced", volume=attached.record.volume_id, reason=str(error))

    async def activate(self, volume: int, generation: int) -> None:
        """Run A5's transaction and tell the engine."""
        attached = self._known.get(volume)
        if attached is None:
            return
        try:
            outcome = await self._grants.activate(attached.record, generation)
        except Exception:  # noqa: BLE001 - whatever broke the call, the sequencer waits for an answer
            _log.exception("activate_failed", volume=attached.record.volume_id)
            outcome = "retry"
        if self.engine.get(volume) is not None:
            self.engine.core.activated(volume, generation, outcome)

    async def _grant(self, wanted: Record) -> Attached:
        record = self._grants.new(wanted)
        attached = Attached(record)
        self._known[record.volume] = attached
        try:
            grant = await self._grants.attach(record)
        except (UnavailableError, DeadlineError):
            # Whether it was granted is unknown: the same nonce asks again.
            attached.waiting = "the manager did not answer"
            raise
        except DrystoneError:
            self._forget(record.volume)
            raise
        attached.record = grant.record
        await self._start(attached, grant)
        return attached

    async def _start(self, attached: Attached, grant: Grant) -> None:
        """Start the sequencer; its map must be as new as the grant."""
        await _bounded(
            self._maps.wait_for(grant.map_revision), ACTIVE_WAIT_S, "no map from the manager"
        )
        volume_id = attached.record.volume_id
        self.engine.start(
            attached.record.volume,
            grant.record.ticket,
            self.endpoint(volume_id),
            recover=grant.needs_recovery,
            near=self._near,
        )
        attached.waiting = ""

    async def _bring_up(self, attached: Attached) -> None:
        """From whatever stands to a usable device."""
        volume = attached.record.volume
        if attached.gone:
            raise _fenced(attached)
        if self.engine.get(volume) is None:
            if attached.readopting:
                raise UnavailableError(
                    f"volume {attached.record.name} is being brought back: {attached.waiting}",
                    code="readopting",
                    hint="ask again",
                )
            grant = await self._grant_again(attached.record)
            attached.record = grant.record
            await self._start(attached, grant)
        found = await _bounded(
            self.engine.settled(volume), ACTIVE_WAIT_S, "the volume is not active yet"
        )
        if found.state is EngineState.FENCED:
            raise _fenced(attached)
        if attached.device is None:
            attacher = await self._devices.get(attached.record.attacher)
            attached.device = await attacher.attach(self._spec(attached.record))

    async def _grant_again(self, record: Record) -> Grant:
        """A grant for a record whose sequencer does not run.

        A generation that a sequencer may have written in is never used by a second one: it would
        count its versions from 1 again and the servers would take them for known ones. So an
        owner that was granted before proves itself and gets the next generation.
        """
        if record.generation > 0 and not record.read_only:
            return await self._grants.readopt(record)
        # A call before this one was cut off: the same nonce gives the same grant.
        return await self._grants.attach(record)

    async def _renew(self, attached: Attached) -> None:
        volume = attached.record.volume
        grant, serial = await self._grants.ticket(attached.record)
        attached.record = grant.record
        if await self.engine.size(volume) == grant.record.size_bytes:
            return
        self.engine.core.ticket(volume, grant.record.ticket)
        await _bounded(
            self.engine.ticket_in_force(volume, serial),
            RESIZE_WAIT_S,
            "the servers have not all taken the new size",
        )

    async def _end(self, volume: int, *, force: bool) -> bool:
        if self.engine.get(volume) is None:
            return False
        try:
            async with asyncio.timeout(FORCE_WAIT_S if force else DRAIN_WAIT_S):
                return await self.engine.end(volume)
        except TimeoutError as error:
            if not force:
                raise DeadlineError(
                    "writes in flight do not end",
                    code="detach_slow",
                    hint="wait for the servers, or detach with force and lose queued writes",
                ) from error
        self.engine.core.revoked(volume)
        async with asyncio.timeout(FORCE_WAIT_S):
            await self.engine.end(volume)
        return False

    async def _readopt(self, volume: int) -> None:
        attached = self._known[volume]
        while self._known.get(volume) is attached:
            try:
                async with self._alone(volume):
                    await self._readopt_once(attached)
            except (DrystoneError, OSError) as error:
                if attached.gone or getattr(error, "code", "") == "volume_fenced":
                    return
                attached.waiting = str(error)
                _log.warning("readopt_waits", volume=volume, reason=str(error))
                await asyncio.sleep(READOPT_AGAIN_S)
            else:
                return

    async def _readopt_once(self, attached: Attached) -> None:
        volume = attached.record.volume
        if self.engine.get(volume) is None:
            try:
                grant = await self._grants.readopt(attached.record)
            except DrystoneError as error:
                if error.code not in GONE:
                    raise
                await self._lost(attached)
                return
            attached.record = grant.record
            await self._start(attached, grant)
        attached.readopting = False
        await self._bring_up(attached)
        _log.info("readopted", volume=attached.record.volume_id)

    async def _lost(self, attached: Attached) -> None:
        """The attachment is gone: whoever holds the device must get errors, so that it ends."""
        volume = attached.record.volume
        if not attached.record.ticket:
            self._forget(volume)
            return
        attached.readopting = False
        attached.gone = "another attachment took the volume while the daemon was away"
        endpoint = self.endpoint(attached.record.volume_id)
        self.engine.start(volume, attached.record.ticket, endpoint, recover=True, near="")
        self.engine.core.revoked(volume)
        attacher = await self._devices.get(attached.record.attacher)
        exported = attached.record.attacher is AttacherKind.EXPORT  # its clients are not known
        if not exported and attached.record.volume_id not in await attacher.found():
            await self._given_back(attached)
            return
        attached.device = await attacher.adopt(self._spec(attached.record))
        _log.warning("attachment_gone", volume=attached.record.volume_id)

    async def _given_back(self, attached: Attached) -> None:
        """No device is left that could need errors, so nothing is left to be detached.

        A crash leaves this between the manager's word in a detach and the removal of the record;
        so does a node that booted after somebody else took the volume.
        """
        async with asyncio.timeout(FORCE_WAIT_S):
            await self.engine.end(attached.record.volume)
        self._forget(attached.record.volume)
        _log.info("attachment_given_back", volume=attached.record.volume_id)

    def _spec(self, record: Record) -> AttachSpec:
        return AttachSpec(
            record.volume_id,
            self.endpoint(record.volume_id),
            record.size_bytes,
            read_only=record.read_only,
        )

    def _forget(self, volume: int) -> None:
        attached = self._known.pop(volume, None)
        self._records.remove(volume)
        if attached is not None:
            self.endpoint(attached.record.volume_id).socket.unlink(missing_ok=True)

    @asynccontextmanager
    async def _alone(self, volume: int) -> AsyncIterator[None]:
        lock = self._locks[volume]
        try:
            async with asyncio.timeout(LOCK_WAIT_S):
                await lock.acquire()
        except TimeoutError as error:
            raise ConflictError(
                f"another operation on volume {volume:016x} is under way", code="busy"
            ) from error
        try:
            yield
        finally:
            lock.release()


async def _bounded(work: Awaitable[_T], limit_s: float, what: str) -> _T:
    try:
        async with asyncio.timeout(limit_s):
            return await work
    except TimeoutError as error:
        raise DeadlineError(what, code="attach_slow", hint="ask again; it goes on") from error


def _check_same(attached: Attached, *, read_only: bool, wanted: AttacherKind | None) -> None:
    record = attached.record
    if record.read_only != read_only or wanted not in (None, record.attacher):
        mode = "read-only" if record.read_only else "read-write"
        raise ConflictError(
            f"volume {record.name or record.volume_id} is attached {mode} as {record.attacher}",
            code="attached_otherwise",
            hint="detach it first",
        )


def _fenced(attached: Attached) -> ConflictError:
    return ConflictError(
        f"volume {attached.record.name} is fenced here: {attached.gone or 'a newer owner has it'}",
        code="volume_fenced",
        hint="detach it here, then attach it again",
    )


def _not_attached(volume: int) -> NotFoundError:
    return NotFoundError(f"volume {volume:016x} is not attached here", code="not_attached")
