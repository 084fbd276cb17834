"""The loop that gets leadership, prepares for it, and keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.cluster.leadership import KEEPALIVE_S, Leadership

log = get_logger(__name__)


class LeaderLoop:
    """Keeps leadership, or gets it.

    ``prepare`` runs after each election while the lease is kept; the manager leads when it has
    ended well, and is tried again when it has not. ``started`` is called then.
    """

    def __init__(
        self,
        leadership: Leadership,
        prepare: Callable[[], Coroutine[Any, Any, None]],
        started: Callable[[], None],
    ) -> None:
        self._leadership = leadership
        self._prepare = prepare
        self._started = started
        self._uncertain = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.step()
            except DrystoneError as error:
                if not self._uncertain:
                    # Once, not at each try: a store may be away for hours.
                    log.warning("leadership is uncertain", reason=str(error))
                self._uncertain = True
                await asyncio.sleep(KEEPALIVE_S)
                continue
            self._uncertain = False
            await self._leadership.rest()

    async def step(self) -> None:
        """Extend leadership, or run for it; lead when that is prepared."""
        if self._leadership.holds:
            await self._leadership.keepalive()
        else:
            await self._leadership.campaign()
        if self._leadership.holds and not self._leadership.leads:
            await self._take_over()

    async def _take_over(self) -> None:
        preparing = asyncio.create_task(self._prepare())
        try:
            while not preparing.done() and self._leadership.holds:
                await asyncio.wait({preparing}, timeout=KEEPALIVE_S)
                if not preparing.done():
                    await self._leadership.keepalive()
            if not preparing.done():
                return
            preparing.result()
        finally:
            preparing.cancel()
            await asyncio.gather(preparing, return_exceptions=True)
        self._leadership.begin()
        if self._leadership.leads:
            log.info("this manager leads")
            self._started()
