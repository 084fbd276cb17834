"""READY again: after each new session, and when the map shows a drive down that does well.

A server that was frozen comes back to a map in which its drives were dropped; nobody but itself
can tell that they serve again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.agent.mapfeed import MapFeed
from drystone_storaged.cluster.pgmap import STATE_BYTE, decode_map
from drystone_storaged.server.drive import DriveKeeper, DriveState
from drystone_storaged.server.status import StatusReporter
from drystone_storaged.server.trust import counts_nowhere

SETTLE_S: Final = 1.0
"""After a map change: a drive that was dropped for hanging gets a moment to show that it does."""

HUNG_US: Final = 1_000_000  # the manager's own figure for a drive that hangs

_log = get_logger(__name__)


class Revive:
    """Reports drives READY that the manager takes for down."""

    def __init__(
        self,
        drives: Sequence[DriveKeeper],
        maps: MapFeed,
        reporter: StatusReporter,
    ) -> None:
        self._drives = drives
        self._maps = maps
        self._reporter = reporter
        self._again = False
        self._work = asyncio.Event()

    def session_opened(self) -> None:
        """Every drive that serves must be said again."""
        self._again = True
        self._work.set()

    def map_changed(self) -> None:
        """Look whether a drive of ours is down in it."""
        self._work.set()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._work.wait()
            self._work.clear()
            again, self._again = self._again, False
            down: set[int] = set()
            if not again:
                await asyncio.sleep(SETTLE_S)
                down = await asyncio.to_thread(self._down, self._maps.data)
                await self._reopen_suspects()
            for drive in self._drives:
                if drive.state is DriveState.SERVING and (again or drive.number in down):
                    await self._ready(drive)

    def _down(self, data: bytes) -> set[int]:
        """Drives that the map shows down under a nonce of ours."""
        if not data:
            return set()
        nonces = {d.number: d.nonce for d in self._drives if d.state is DriveState.SERVING}
        return {
            d.id
            for d in decode_map(data).drives
            if nonces.get(d.id) == d.nonce and d.state == STATE_BYTE["down"]
        }

    async def _reopen_suspects(self) -> None:
        for drive in self._drives:
            if drive.suspect and drive.state is DriveState.SERVING:
                data = self._maps.data
                if await asyncio.to_thread(counts_nowhere, data, drive.number):
                    drive.reopen()

    async def _ready(self, drive: DriveKeeper) -> None:
        figures = await self._reporter.probe(drive.number)
        if figures is None or figures.oldest_io_us > HUNG_US:
            _log.warning("drive_not_well", drive=drive.number)
            return
        try:
            await drive.ready_again()
        except DrystoneError as error:
            _log.warning("ready_refused", drive=drive.number, code=error.code, reason=str(error))
