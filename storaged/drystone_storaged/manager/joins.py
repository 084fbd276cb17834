"""Bringing drives in: joins at once, promotions in batches, with a pause for drives that fail."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.cluster.leadership import Leadership
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.membership_service import Changed, MembershipService
from drystone_storaged.manager.bell import BACKSTOP_S, Bell

log = get_logger(__name__)

RETRY_S: Final = 1.0  # after a join that failed
PROMOTE_PERIOD_S: Final = 0.2  # §4.1: at most 5 map transactions a second for promotions
BACKOFF_S: Final = 2.0  # first pause of a joiner that failed; doubles
BACKOFF_MAX_S: Final = 8.0  # a joiner is dropped at the first stall: a busy one must soon try again


class Backoff:
    """Which drives may not join yet."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._until: dict[int, tuple[float, float]] = {}

    def failed(self, drive: int) -> None:
        """A joiner failed: pause, longer each time."""
        until, pause = self._until.get(drive, (0.0, BACKOFF_S / 2))
        if self._monotonic() >= until:
            pause = min(pause * 2, BACKOFF_MAX_S)
            self._until[drive] = (self._monotonic() + pause, pause)

    def succeeded(self, drive: int) -> None:
        """A promotion: the drive is well again."""
        self._until.pop(drive, None)

    def clear(self) -> None:
        """Nothing is known of any drive."""
        self._until.clear()

    def waiting(self) -> set[int]:
        """Drives in their pause."""
        now = self._monotonic()
        return {drive for drive, (until, _) in self._until.items() if until > now}

    def next_end_s(self) -> float:
        """Seconds until a pause ends; without one, or a long time away, the backstop."""
        now = self._monotonic()
        ends = [until - now for until, _ in self._until.values() if until > now]
        return min([*ends, BACKSTOP_S])


class JoinLoop:
    """Joins what is up, wanted and out, whenever ``bell`` tells of a map or a pause ends.

    ``refill`` comes first: it makes drives wanted where a place is empty.
    """

    def __init__(
        self,
        membership: MembershipService,
        leadership: Leadership,
        backoff: Backoff,
        refill: Callable[[], Awaitable[Changed]],
    ) -> None:
        self._membership = membership
        self._leadership = leadership
        self._refill = refill
        self._backoff = backoff
        self.bell = Bell()

    def hold_back(self, drive: int) -> None:
        """A drive left on its own wish: give it a pause before it joins again."""
        self._backoff.failed(drive)
        # The map that shows it out may have been looked at already, and the pause ends later.
        self.bell.ring()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause_s = await self._look() if self._leadership.leads else BACKSTOP_S
            await self.bell.wait(pause_s)

    async def _look(self) -> float:
        """Join what may join now; gives after how long to look again unasked."""
        try:
            filled = await self._refill()
            if filled.changed:
                log.info("empty places given to drives", pgs=len(filled.changed))
            done = await self._membership.join_wanted(exclude=self._backoff.waiting())
        except DrystoneError as error:
            log.warning("joining failed, will try again", reason=str(error))
            return RETRY_S
        if done.changed:
            log.info("drives joined", pgs=len(done.changed), revision=done.revision)
        return self._backoff.next_end_s()


Completed = dict[PgRef, set[tuple[int, int]]]


class PromoteBatcher:
    """Collects completed copies and promotes them together."""

    def __init__(
        self,
        membership: MembershipService,
        backoff: Backoff,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._membership = membership
        self._backoff = backoff
        self._sleep = sleep
        self._waiting: list[tuple[Completed, asyncio.Future[Changed]]] = []
        self._wake = asyncio.Event()

    async def promote(self, drive: int, pgs: Collection[tuple[PgRef, int]]) -> Changed:
        """Ask for the promotion of a drive in PGs, each in the epoch of its copy."""
        wanted: Completed = {ref: {(drive, epoch)} for ref, epoch in pgs}
        answer: asyncio.Future[Changed] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, answer))
        self._wake.set()
        done = await answer
        refused = tuple(ref for ref in wanted if ref in done.refused)
        if len(refused) < len(wanted):
            self._backoff.succeeded(drive)
        return Changed(done.revision, tuple(r for r in wanted if r in done.changed), refused)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch, self._waiting = self._waiting, []
            await self._run_batch(batch)
            await self._sleep(PROMOTE_PERIOD_S)

    async def _run_batch(self, batch: list[tuple[Completed, asyncio.Future[Changed]]]) -> None:
        merged: dict[PgRef, set[tuple[int, int]]] = defaultdict(set)
        for wanted, _ in batch:
            for ref, entries in wanted.items():
                merged[ref] |= entries
        try:
            done = await self._membership.promote({r: sorted(e) for r, e in merged.items()})
        except DrystoneError as error:
            for _, answer in batch:
                if not answer.done():
                    answer.set_exception(error)
            return
        for _, answer in batch:
            if not answer.done():
                answer.set_result(done)
