"""What drives ask of the manager: promotion, leaving, epochs, generations.

Batched, one call at a time.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from typing import Any, Final

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_common.pace import Pace
from drystone_storaged.agent.control import Control
from drystone_storaged.agent.mapfeed import MapFeed
from drystone_storaged.agent.pump import Event
from drystone_storaged.proto import control_pb2
from drystone_storaged.server.core import ServerCore

GATHER_S: Final = 0.1
"""Copies that complete within this time go in one call: promotions are few transactions."""

PGS_MAX: Final = 1024  # a call's limit
PAGES_MAX: Final = 4096
"""16 million volumes: a manager that sends more pages than that is broken."""

BLANK: Final = (
    "the log prefix cannot be proven",
    "a stable version that a peer holds",
    "what it held of the group was freed",
)
"""Reasons after which the old content proves nothing: the drive returns as blank."""
OF_JOINERS: Final = (
    "no space for the copy",
    "it lacks a write that only unreadable copies hold",
)
"""Reasons of the native side that a drive has only while it joins."""

_log = get_logger(__name__)


class Upcalls:
    """Queues what drives say; ``nonce_of`` gives the nonce of an open drive, 0 if it is not."""

    def __init__(
        self, core: ServerCore, control: Control, maps: MapFeed, nonce_of: Callable[[int], int]
    ) -> None:
        self._core = core
        self._control = control
        self._maps = maps
        self._nonce_of = nonce_of
        self._copies: dict[int, dict[tuple[int, int], int]] = defaultdict(dict)
        self._quiet: dict[int, dict[tuple[int, int], int]] = defaultdict(dict)
        self._leaves: dict[tuple[int, str], set[tuple[int, int]]] = defaultdict(set)
        self._generations: dict[tuple[int, int], int] = {}
        self._told: Counter[tuple[int, str, bool]] = Counter()
        self._pace = Pace()
        self._work = asyncio.Event()
        self._read = asyncio.Event()

    def on_copy_complete(self, event: Event) -> None:
        """Take `copy_complete`; a newer epoch of the same PG replaces an older one."""
        self._copies[event["drive"]][event["pool"], event["pg"]] = event["epoch"]
        self._work.set()

    def on_still_quiet(self, event: Event) -> None:
        """Take `still_quiet`; a newer epoch of the same PG replaces an older one."""
        self._quiet[event["drive"]][event["pool"], event["pg"]] = event["epoch"]
        self._work.set()

    def on_leave(self, event: Event) -> None:
        """Take `leave_pg`."""
        self._leaves[event["drive"], event["why"]].add((event["pool"], event["pg"]))
        self._work.set()

    def on_need_generations(self, event: Event) -> None:
        """Take `need_generations`; the smallest revision asked for covers the others."""
        key = (event["drive"], event["pool"])
        since = event["since"]
        self._generations[key] = min(since, self._generations.get(key, since))
        self._read.set()

    async def run_calls(self) -> None:
        """Send promotions, leaves and renewals until cancelled."""
        while True:
            await self._work.wait()
            await asyncio.sleep(GATHER_S)
            self._work.clear()
            leaves, self._leaves = self._leaves, defaultdict(set)
            copies, self._copies = self._copies, defaultdict(dict)
            quiet, self._quiet = self._quiet, defaultdict(dict)
            for (drive, why), left in leaves.items():
                await self._guarded(self._leave(drive, why, sorted(left)))
            for drive, epochs in copies.items():
                await self._guarded(self._complete(drive, epochs))
            for drive, epochs in quiet.items():
                await self._guarded(self._renew(drive, epochs))

    async def run_generations(self) -> None:
        """Read generations until cancelled, one call in flight."""
        while True:
            await self._read.wait()
            self._read.clear()
            wanted, self._generations = self._generations, {}
            for (drive, pool), since in wanted.items():
                await self._guarded(self._read_generations(drive, pool, since))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except DrystoneError as error:
            # The drive asks again while it needs it.
            _log.warning("upcall_refused", code=error.code, detail=str(error))

    async def _complete(self, drive: int, epochs: dict[tuple[int, int], int]) -> None:
        for pgs in _pages(epochs):
            nonce = self._nonce_of(drive)
            if not nonce:
                return
            request = control_pb2.CopyCompleteRequest(drive=drive, nonce=nonce, pgs=pgs)
            answer = await self._control.call(lambda stub: stub.CopyComplete, request)
            # The map tells the drive of its promotion, or of the epoch to complete anew.
            if answer.map_revision > self._maps.revision:
                self._maps.need(answer.map_revision)

    async def _renew(self, drive: int, epochs: dict[tuple[int, int], int]) -> None:
        for pgs in _pages(epochs):
            nonce = self._nonce_of(drive)
            if not nonce:
                return
            request = control_pb2.RenewEpochsRequest(drive=drive, nonce=nonce, pgs=pgs)
            answer = await self._control.call(lambda stub: stub.RenewEpochs, request)
            # The map ends the promises.
            self._maps.need(answer.map_revision)

    async def _leave(self, drive: int, why: str, left: list[tuple[int, int]]) -> None:
        for start in range(0, len(left), PGS_MAX):
            nonce = self._nonce_of(drive)
            if not nonce:
                return
            pgs = [control_pb2.Pg(pool=p, pg=n) for p, n in left[start : start + PGS_MAX]]
            request = control_pb2.LeavePgRequest(
                drive=drive, nonce=nonce, pgs=pgs, blank=why.startswith(BLANK), reason=why,
                joining=why in OF_JOINERS,
            )  # fmt: skip
            answer = await self._control.call(lambda stub: stub.LeavePg, request)
            # A last copy is refused, and asks again each few seconds as long as it is one.
            kind = (drive, why, bool(answer.refused))
            self._told[kind] += 1
            if times := self._pace.due(kind, self._told[kind]):
                _log.warning(
                    "left_pgs", drive=drive, pgs=len(pgs), refused=len(answer.refused), why=why,
                    times=times,
                )  # fmt: skip
            self._maps.need(answer.map_revision)

    async def _read_generations(self, drive: int, pool: int, since: int) -> None:
        entries: list[tuple[int, int, int]] = []
        first = after = 0
        for _ in range(PAGES_MAX):
            request = control_pb2.ReadGenerationsRequest(
                pool=pool, since_revision=since, after_volume=after, first_revision=first
            )
            page = await self._control.call(lambda stub: stub.ReadGenerations, request)
            entries += [(e.volume, e.generation, e.nonce) for e in page.entries]
            first = first or page.revision
            if not page.more:
                break
            after = page.last_volume
        self._core.generations(drive, pool, first, entries)


def _pages(epochs: dict[tuple[int, int], int]) -> list[list[control_pb2.Pg]]:
    listed = [
        control_pb2.Pg(pool=pool, pg=pg, epoch=epoch)
        for (pool, pg), epoch in sorted(epochs.items())
    ]
    return [listed[start : start + PGS_MAX] for start in range(0, len(listed), PGS_MAX)]
