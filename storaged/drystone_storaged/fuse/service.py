"""Calls of the block daemon, each carried to its end whether or not the caller is still there.

Keeps nothing that matters: what exists is in the kernel and in the folders of the processes, so a
call that repeats one that was cut off, by a death of either side, goes on where that one ended.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

from drystone_common.errors import DataError, DrystoneError, InvariantError, UnavailableError
from drystone_common.ids import parse_id
from drystone_common.logs import get_logger
from drystone_storaged.attach import wire
from drystone_storaged.attach.fuse import FuseAttacher
from drystone_storaged.attach.interface import AttachSpec, Device

LOOK_AGAIN_S: Final = 5.0
"""While a stop waits: a process that dies by itself tells nobody, so it is looked at."""

_log = get_logger(__name__)


class FuseService:
    """See the module."""

    def __init__(self, attacher: FuseAttacher) -> None:
        self._attacher = attacher
        # A lock goes with its last user: a node sees many volumes in its life.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._watched: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._stopping = False
        self.on_lost: list[Callable[[], None]] = []
        """Called when the process of a volume died."""
        self._calls: dict[str, Callable[[wire.Json], Awaitable[wire.Json]]] = {
            "attach": self._attach,
            "adopt": self._adopt,
            "found": self._found,
            "detach": self._detach,
            "resize": self._resize,
        }

    async def start(self) -> None:
        """Clear away what died with an earlier run, and watch what did not."""
        for volume in await self._attacher.sweep():
            self._tell_lost(volume)
        for volume in await self._attacher.found():
            await self._watch(volume)

    async def answer(self, line: bytes) -> bytes:
        """Carry out one request; every failure becomes an answer."""
        try:
            request = wire.decode(line)
            return wire.encode({"ok": True, **await self._call(request)(request)})
        except DrystoneError as error:
            return wire.encode({"ok": False, "error": error.as_dict()})
        except Exception:  # noqa: BLE001 - a defect in one call is not the other volumes' end
            _log.exception("fuse_call_defect")
            defect = InvariantError("the FUSE helper met a defect; its log has it")
            return wire.encode({"ok": False, "error": defect.as_dict()})

    def _call(self, request: wire.Json) -> Callable[[wire.Json], Awaitable[wire.Json]]:
        call = self._calls.get(wire.text(request, "call"))
        if call is None:
            raise DataError(
                f"no such call: {request['call']!a}"[:200],
                code="unknown_call",
                hint="this FUSE helper is older than the block daemon: replace its pod while the "
                "node has no volumes",
            )
        return call

    async def stop(self, wait_s: float) -> None:
        """Make nothing new, and return when no volume is left or the time is up."""
        self._stopping = True
        if wait_s:
            await self._until_empty(wait_s)
        for volume in list(self._watched):
            self._unwatch(volume)

    async def _until_empty(self, wait_s: float) -> None:
        told: list[str] = []
        try:
            async with asyncio.timeout(wait_s):
                while held := await self._held():
                    if held != told:
                        _log.warning("fuse_helper_waits", volumes=held)
                        told = held
                    await self._until_changed()
        except TimeoutError:
            _log.error("fuse_helper_stops_anyway", volumes=await self._held())

    async def _attach(self, request: wire.Json) -> wire.Json:
        spec = wire.spec_of(request)
        async with self._lock(spec.volume_id):
            device = await self._attacher.adopt(spec) or await self._make(spec)
            await self._watch(spec.volume_id)
        return wire.device_fields(device)

    async def _make(self, spec: AttachSpec) -> Device:
        if self._stopping:
            raise UnavailableError(
                "the FUSE helper of this node is stopping and takes no new volume",
                code="fuse_helper_stopping",
                hint="it goes when the volumes that it has are detached; its successor takes this",
            )
        return await self._attacher.attach(spec)

    async def _adopt(self, request: wire.Json) -> wire.Json:
        spec = wire.spec_of(request)
        async with self._lock(spec.volume_id):
            return wire.device_fields(await self._attacher.adopt(spec))

    async def _found(self, _: wire.Json) -> wire.Json:
        return {"volumes": list(await self._attacher.found())}

    async def _detach(self, request: wire.Json) -> wire.Json:
        volume = wire.text(request, "volume")
        async with self._lock(volume):
            self._unwatch(volume)
            try:
                await self._attacher.detach(volume, force=wire.flag(request, "force"))
            finally:
                # Refused or cut short: what still runs is watched on.
                await self._watch(volume)
        self._changed.set()
        return {}

    async def _resize(self, request: wire.Json) -> wire.Json:
        volume = wire.text(request, "volume")
        async with self._lock(volume):
            device = await self._attacher.resize(volume, wire.number(request, "size_bytes"))
        return wire.device_fields(device)

    async def _held(self) -> list[str]:
        volumes = await self._attacher.found()
        return [v for v in volumes if await self._runs(v)]

    async def _runs(self, volume: str) -> bool:
        try:
            return await self._attacher.alive(volume) is not None
        except DrystoneError:
            return True  # hanging or beside itself, with its device: no reason to end it

    async def _until_changed(self) -> None:
        self._changed.clear()
        try:
            async with asyncio.timeout(LOOK_AGAIN_S):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _watch(self, volume: str) -> None:
        """Learn of the death of a volume's process; nobody else would say that it is dead."""
        try:
            pid = None if volume in self._watched else await self._attacher.alive(volume)
        except DrystoneError:
            return  # it hangs or is beside itself; the next call looks again
        if pid is None:
            return
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            return  # died since; the next call meets it
        self._watched[volume] = descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._died, volume)

    def _died(self, volume: str) -> None:
        self._unwatch(volume)
        self._changed.set()
        self._tell_lost(volume)

    @property
    def watched(self) -> int:
        """How many processes of volumes live here."""
        return len(self._watched)

    def _tell_lost(self, volume: str) -> None:
        for call in self.on_lost:
            call()
        _lost(volume)

    def _unwatch(self, volume: str) -> None:
        descriptor = self._watched.pop(volume, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def _lock(self, volume: str) -> asyncio.Lock:
        parse_id(volume, "volume id")
        lock = self._locks.get(volume)
        if lock is None:
            lock = self._locks[volume] = asyncio.Lock()
        return lock


def _lost(volume: str) -> None:
    _log.error(
        "fuse_process_lost",
        volume=volume,
        hint="its device gives errors only, for good: end the pods that use it, so that it is "
        "unmounted and detached; the next attach makes a new one",
    )
