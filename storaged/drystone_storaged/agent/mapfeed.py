"""The cluster map on its way to the native side: pushed maps, and quorum reads on demand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

import grpc

from drystone_common.logs import get_logger
from drystone_storaged.agent.control import Control, left_with_its_manager
from drystone_storaged.agent.pauses import Pauses
from drystone_storaged.proto import control_pb2

Apply = Callable[[bytes, int | None], None]
"""Takes an encoded map, and the microseconds (CLOCK_MONOTONIC) when its quorum read began."""

READ_GAP_S: Final = 0.05
"""Between two quorum reads: a storm of requests for maps becomes 20 reads a second."""

READ_GAP_MAX_S: Final = 1.0
"""While the revision that somebody named does not come: it may never."""

_log = get_logger(__name__)


def monotonic_us() -> int:
    """CLOCK_MONOTONIC in microseconds, the clock of the native side."""
    return time.monotonic_ns() // 1000


class MapFeed:
    """Follows the map. ``revision`` and ``data`` are the newest that was applied."""

    def __init__(self, control: Control, apply: Apply) -> None:
        self._control = control
        self._apply = apply
        self.revision = 0
        self.data = b""
        self.on_change: Callable[[], None] | None = None
        self._wanted = 0
        self._read_wanted = asyncio.Event()
        self._changed = asyncio.Condition()

    def need(self, at_least: int) -> None:
        """Ask for a quorum read that begins after this call; one is in flight at a time.

        ``at_least`` 0 asks for a read whatever the revision is (a lease is to be taken again).
        """
        self._wanted = max(self._wanted, at_least)
        self._read_wanted.set()

    async def wait_for(self, revision: int) -> None:
        """Return when a map at least that new was applied; the caller bounds the wait."""
        if self.revision < revision:
            self.need(revision)
        async with self._changed:
            await self._changed.wait_for(lambda: self.revision >= revision)

    async def run_reads(self) -> None:
        """Serve ``need`` until cancelled."""
        gap_s = READ_GAP_S
        while True:
            await self._read_wanted.wait()
            self._read_wanted.clear()
            began_us = monotonic_us()
            update = await self._control.call(
                # The whole map, always: the native side ties its lease to the map it is given.
                lambda stub: stub.ReadMap,
                control_pb2.ReadMapRequest(have_revision=0),
            )
            await self._take(update, began_us)
            if self.revision < self._wanted or update.revision < self.revision:
                # Too old already: whoever asked needs one that began after what is known now.
                self._read_wanted.set()
                gap_s = min(2 * gap_s, READ_GAP_MAX_S)
            else:
                gap_s = READ_GAP_S
            await asyncio.sleep(gap_s)

    async def run_stream(self) -> None:
        """Keep the map stream open until cancelled."""
        pauses = Pauses(self._control.managers)
        while True:
            turn = self._control.turn
            stream = self._control.stub.MapStream(
                control_pb2.MapStreamRequest(have_revision=self.revision),
                metadata=self._control.metadata,
            )
            try:
                async for update in stream:
                    await self._take(update, None)
                    pauses.reset()
            except grpc.aio.AioRpcError as error:
                _log.info("map_stream_lost", code=error.code().name, detail=error.details())
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    self._control.next_manager(turn)
            except asyncio.CancelledError:
                if not left_with_its_manager():
                    raise
                pauses.reset()
            finally:
                stream.cancel()
            await asyncio.sleep(pauses.next_s())

    async def _take(self, update: control_pb2.MapUpdate, began_us: int | None) -> None:
        if not update.map or update.revision < self.revision:
            return
        if began_us is None and update.revision == self.revision:
            return
        self._apply(update.map, began_us)
        newer = update.revision > self.revision
        async with self._changed:
            self.revision, self.data = update.revision, update.map
            self._changed.notify_all()
        if newer and self.on_change is not None:
            self.on_change()
