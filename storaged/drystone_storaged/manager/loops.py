"""The manager's loops beside calls: each sleeps until somebody rings, or while work remains."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.manager.bell import BACKSTOP_S
from drystone_storaged.manager.services import Services

log = get_logger(__name__)

RESTART_S: Final = 0.5  # pause of a loop that failed: it must not spin on a store that is away
SWEEP_S: Final = 1.0  # between two looks: a storm of changes costs one read of the map a second
EVENTS_S: Final = 1.0  # what happens within a second is written together
ORDERS_S: Final = 5.0  # orders wait for drives that are away
COMPACT_S: Final = 60.0  # between two compactions: each costs etcd a walk over its index
HISTORY_S: Final = 300.0  # a watch that fell behind further reads the keys anew


async def supervise(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop for ever: one that fails is begun anew, loudly."""
    while True:
        try:
            await loop()
        except DrystoneError as error:
            log.warning("a loop stopped, beginning anew", loop=name, reason=str(error))
        except Exception:
            log.exception("a loop failed, beginning anew", loop=name)
        await asyncio.sleep(RESTART_S)


async def run_map(services: Services) -> None:
    """Follow the map for as long as this manager leads: nobody asks a standby for it."""
    while True:
        if not services.leadership.leads:
            await services.wake_map.wait()
            continue
        following = asyncio.create_task(services.feed.run())
        try:
            while services.leadership.leads:
                ringing = asyncio.create_task(services.wake_map.wait())
                try:
                    await asyncio.wait({following, ringing}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    ringing.cancel()  # one that is left over would take a later ring
                if following.done():
                    return following.result()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def run_orders(services: Services) -> None:
    """Carry out orders when there are new ones, and again and again while some remain."""
    while True:
        left = await services.orders.run() if services.leadership.leads else 0
        await services.wake_orders.wait(ORDERS_S if left else BACKSTOP_S)


async def run_compaction(services: Services) -> None:
    """Have a shared store forget its history: nobody reads what is older than this."""
    store, seen = services.env.store, deque[tuple[float, int]]()
    while True:
        await asyncio.sleep(COMPACT_S)
        if not services.leadership.leads:
            seen.clear()
            continue
        now = services.env.monotonic()
        seen.append((now, await store.revision()))
        while len(seen) > 1 and seen[1][0] <= now - HISTORY_S:
            seen.popleft()
        if seen[0][0] <= now - HISTORY_S:
            await store.compact(seen[0][1])


async def run_problems(services: Services) -> None:
    """Look at what is wrong at every change, so that it is known since when, whoever asks."""
    while True:
        if services.leadership.leads:
            services.chronicle.problems(await services.status.problems())
            await services.tasks.list()  # for its counts
        await asyncio.sleep(SWEEP_S)
        await services.wake_problems.wait()


async def run_events(services: Services) -> None:
    """Write events: one transaction a second at most, and none while nothing happens."""
    while True:
        left = await services.events.flush() if services.leadership.leads else False
        await asyncio.sleep(EVENTS_S)
        if not left:
            await services.wake_events.wait()


async def run_sweep(services: Services) -> None:
    """Look for what no event told: at every change, and each second while something is wrong."""
    while True:
        wrong = False
        if services.leadership.leads:
            # First, and whatever becomes of the look at drives: without it a node has no lease.
            left = await services.silence.tidy()
            wrong = await services.judge.sweep() or left
        await asyncio.sleep(SWEEP_S)
        if not wrong:
            await services.wake_sweep.wait()
