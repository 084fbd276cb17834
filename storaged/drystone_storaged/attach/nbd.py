"""Kernel NBD devices, kept across restarts of the daemon.

What the kernel does (tried on 6.1 and 6.12): a dead server gives LINK_DEAD at once; requests
that were in flight are sent again TIMEOUT after they were first sent, on a connection that
RECONFIGURE brought; RECONFIGURE while no connection is dead says "fine" and does nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final

from drystone_common.errors import DrystoneError, InvariantError, NotFoundError
from drystone_common.logs import get_logger
from drystone_storaged.attach import sysfs
from drystone_storaged.attach.interface import (
    SECTOR_BYTES,
    AttacherKind,
    AttachSpec,
    Device,
    Endpoint,
    InFlight,
    device_busy,
    none_in_flight,
)
from drystone_storaged.attach.nbd_handshake import dial
from drystone_storaged.attach.nbd_netlink import (
    CONNECT,
    DISCONNECT,
    RECONFIGURE,
    NbdControl,
    socket_list,
)

TIMEOUT_S: Final = 30
"""After this the kernel sends a request again. A shorter time would resend what only waits
for a fail-over (5 s worst) and 0 would mean 30 s without ever failing."""

DEAD_CONN_TIMEOUT_S: Final = 86_400
"""I/O waits for a daemon that is away this long: an upgrade gone wrong must not become an
error, which would make file systems read-only."""

PARTING_TIMEOUT_S: Final = 1
"""What TIMEOUT is while the daemon ends in an orderly way, so that what it drops is sent again soon
after the next one connects; the kernel counts in seconds. Connecting sets it back."""

PARTING_S: Final = 0.25
"""A request keeps the TIMEOUT that it began with: one that began before is answered by then, if
nothing is amiss. Otherwise it waits TIMEOUT_S, as after a crash."""

PARTING_WAIT_S: Final = 2.0
"""The driver answers at once. An end must not hang at a driver that does not."""

IN_FLIGHT_MAX: Final = 512
"""With more than these open no new connection is brought. While a pool stalls, the kernel takes
each connection for dead after TIMEOUT_S and sends all its requests (128) again, but the engine
holds what came before until it ends: an hour of that would be its memory, or its limit and EIO."""

ROOM_POLL_S: Final = 1.0  # beside a stall of half a minute at least

RETRY_S: Final = 0.2  # between tries to reach a daemon that is just starting
BACKEND_PREFIX: Final = "drystone-"

_log = get_logger(__name__)


class NbdAttacher:
    """See ``Attacher``. Use ``open`` to make one; its watcher runs until ``aclose``."""

    kind = AttacherKind.NBD

    def __init__(
        self,
        control: NbdControl,
        sys_block: Path = sysfs.SYS_BLOCK,
        in_flight: InFlight = none_in_flight,
    ) -> None:
        self._control = control
        self._sys_block = sys_block
        self._in_flight = in_flight
        self._endpoints: dict[int, tuple[str, Endpoint]] = {}
        self._dead: set[int] = set()
        self._reconnects: dict[int, asyncio.Task[None]] = {}
        self._watcher: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, in_flight: InFlight = none_in_flight) -> NbdAttacher:
        """Open the driver's control and begin to watch; UnavailableError without a driver."""
        attacher = cls(NbdControl(), in_flight=in_flight)
        await attacher.start()
        return attacher

    async def start(self) -> None:
        """Begin to watch, before the first device, so that no event is missed."""
        await self._control.open()
        self._watcher = asyncio.create_task(self._watch(), name="nbd-watcher")

    async def attach(self, spec: AttachSpec) -> Device:
        """See ``Attacher``."""
        adopted = await self.adopt(spec)
        if adopted is not None:
            return adopted
        connection, size, flags = await dial(spec.endpoint.socket, spec.endpoint.export)
        with contextlib.closing(connection):
            index = await self._control.run(
                CONNECT,
                size_bytes=size,
                block_size_bytes=SECTOR_BYTES,
                timeout=TIMEOUT_S,
                dead_conn_timeout=DEAD_CONN_TIMEOUT_S,
                server_flags=flags,
                client_flags=0,
                backend_identifier=_backend(spec.volume_id),
                sockets=socket_list([connection.fileno()]),
            )
        if index is None:
            raise InvariantError("the NBD driver connected a device without saying which")
        self._endpoints[index] = (spec.volume_id, spec.endpoint)
        await self._until_size(index, size)
        return self._device(spec.volume_id, index)

    async def adopt(self, spec: AttachSpec) -> Device | None:
        """See ``Attacher``. If the kernel has not seen the old connection die yet, the event
        comes later and the watcher connects again.
        """  # noqa: D205 - two sentences, one thought
        index = await self._index(spec.volume_id)
        if index is None:
            return None
        self._endpoints[index] = (spec.volume_id, spec.endpoint)
        await self._reconfigure(index)
        if sysfs.size_bytes(f"nbd{index}", self._sys_block) < spec.size_bytes:
            return await self.resize(spec.volume_id, spec.size_bytes)
        return self._device(spec.volume_id, index)

    async def found(self) -> tuple[str, ...]:
        """See ``Attacher``."""
        found = await asyncio.to_thread(sysfs.nbd_backends, BACKEND_PREFIX, self._sys_block)
        return tuple(backend.removeprefix(BACKEND_PREFIX) for backend in found)

    async def detach(self, volume_id: str, *, force: bool = False) -> None:
        """See ``Attacher``."""
        index = await self._index(volume_id)
        if index is None:
            return
        device = f"/dev/nbd{index}"
        if not force and await asyncio.to_thread(sysfs.claimed, device):
            raise device_busy(device)
        self._endpoints.pop(index, None)
        self._dead.discard(index)
        retry = self._reconnects.pop(index, None)
        if retry is not None:
            retry.cancel()
        await self._control.run(DISCONNECT, index=index)
        backend = _backend(volume_id)
        await sysfs.until(
            lambda: sysfs.nbd_of(backend, self._sys_block) is None, f"{device} goes away"
        )

    async def resize(self, volume_id: str, size_bytes: int) -> Device:
        """See ``Attacher``."""
        index = await self._index(volume_id)
        if index is None:
            raise NotFoundError(f"volume {volume_id} has no device here", code="not_attached")
        await self._reconfigure_with(index, volume_id, size_bytes=size_bytes)
        await self._until_size(index, size_bytes)
        return self._device(volume_id, index)

    async def aclose(self) -> None:
        """See ``Attacher``."""
        tasks = [*self._reconnects.values(), *([self._watcher] if self._watcher else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._reconnects.clear()
        await self._part()
        self._endpoints.clear()
        self._control.close()

    async def _part(self) -> None:
        """See ``PARTING_TIMEOUT_S``. What fails here costs a longer pause and nothing else."""
        if not self._endpoints:
            return
        try:
            async with asyncio.timeout(PARTING_WAIT_S):
                for index, (volume_id, _) in self._endpoints.items():
                    await self._part_from(index, volume_id)
                await asyncio.sleep(PARTING_S)
        except TimeoutError:
            _log.warning("nbd_parting_failed", reason="the driver does not answer")

    async def _part_from(self, index: int, volume_id: str) -> None:
        try:
            await self._reconfigure_with(index, volume_id, timeout=PARTING_TIMEOUT_S)
        except (DrystoneError, OSError) as error:
            _log.warning("nbd_parting_failed", device=f"nbd{index}", reason=str(error))

    async def _watch(self) -> None:
        """Bring every device of ours that lost its connection a new one."""
        while True:
            try:
                dead = await self._control.next_dead()
            except OSError as error:
                # The kernel dropped events that we were too slow to read: it may be any device,
                # and for one whose connection lives RECONFIGURE does nothing.
                _log.warning("nbd_events_lost", reason=str(error))
                dead = list(self._endpoints)
            for index in dead:
                self._link_died(index)

    def _link_died(self, index: int) -> None:
        if index not in self._endpoints:
            return
        # A set beside the task: a connection that dies while the task is bringing it must not
        # be forgotten, for the kernel tells it once.
        self._dead.add(index)
        running = self._reconnects.get(index)
        if running is None or running.done():
            task = asyncio.create_task(self._reconnect(index), name=f"nbd{index}")
            self._reconnects[index] = task

    async def _reconnect(self, index: int) -> None:
        """Try until it works: there is no better moment to give up than the kernel's own."""
        while index in self._dead and index in self._endpoints:
            self._dead.discard(index)
            try:
                await self._until_room(index)
                await self._reconfigure(index)
            except (DrystoneError, OSError) as error:
                self._dead.add(index)
                _log.info("nbd_reconnect_waits", device=f"nbd{index}", reason=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                _log.info("nbd_reconnected", device=f"nbd{index}")

    async def _until_room(self, index: int) -> None:
        """Requests wait in the kernel meanwhile, as they would wait in the engine."""
        volume_id, _ = self._endpoints[index]
        told = False
        while (count := await self._in_flight(volume_id)) > IN_FLIGHT_MAX:
            if not told:
                _log.warning("nbd_reconnect_waits", device=f"nbd{index}", in_flight=count)
                told = True
            await asyncio.sleep(ROOM_POLL_S)

    async def _reconfigure(self, index: int) -> None:
        volume_id, endpoint = self._endpoints[index]
        connection, _, _ = await dial(endpoint.socket, endpoint.export)
        # The kernel keeps the sockets that it uses; closing ours ends one that it does not.
        with contextlib.closing(connection):
            sockets = socket_list([connection.fileno()])
            await self._reconfigure_with(index, volume_id, timeout=TIMEOUT_S, sockets=sockets)

    async def _reconfigure_with(self, index: int, volume_id: str, **attributes: object) -> None:
        await self._control.run(
            RECONFIGURE, index=index, backend_identifier=_backend(volume_id), **attributes
        )

    async def _index(self, volume_id: str) -> int | None:
        name = await asyncio.to_thread(sysfs.nbd_of, _backend(volume_id), self._sys_block)
        return int(name.removeprefix("nbd")) if name else None

    async def _until_size(self, index: int, size_bytes: int) -> None:
        await sysfs.until(
            lambda: sysfs.size_bytes(f"nbd{index}", self._sys_block) >= size_bytes,
            f"/dev/nbd{index} shows {size_bytes} bytes",
        )

    def _device(self, volume_id: str, index: int) -> Device:
        size = sysfs.size_bytes(f"nbd{index}", self._sys_block)
        return Device(volume_id, self.kind, f"/dev/nbd{index}", size)


def _backend(volume_id: str) -> str:
    return f"{BACKEND_PREFIX}{volume_id}"
