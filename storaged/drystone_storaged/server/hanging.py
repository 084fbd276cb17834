"""Calls that may hang in the kernel: each on a thread of its own, waited for only so long.

A dead disk or network mount holds whoever looks at it, for ever and unkillably. The threads of the
event loop are few and shared: dead ones would take them all, so these are others.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

LOOK_S: Final = 10.0  # a few calls; what needs longer for them is sick

T = TypeVar("T")


def in_thread(work: Callable[[], T]) -> asyncio.Future[T]:
    """Run on a thread that nobody waits for at the end of the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def deliver(result: T | None, error: Exception | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
            future.exception()  # looked at: a late one that nobody waits for is no defect
        else:
            future.set_result(cast("T", result))

    def run() -> None:
        try:
            outcome: tuple[T | None, Exception | None] = (work(), None)
        except Exception as error:  # noqa: BLE001 - the native module's type is its own
            outcome = (None, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
            loop.call_soon_threadsafe(deliver, *outcome)

    threading.Thread(target=run, name="look", daemon=True).start()
    return future


async def within(work: Callable[[], T], seconds: float) -> T:
    """What it gives; TimeoutError where it takes longer, and its thread is left to itself.

    For what is asked once: what is asked again and again needs ``Looks``.
    """
    future = in_thread(work)
    done, _ = await asyncio.wait({future}, timeout=seconds)
    if not done:
        raise TimeoutError
    return future.result()


class Looks:
    """Looks at paths, one at most outstanding for each: a path that hangs takes one thread."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.Future[Any]] = {}
        self._late: set[str] = set()

    async def at(self, path: str, work: Callable[[], T]) -> T:
        """What ``work`` gives; it must be the same for the same path, for it is shared.

        TimeoutError where it takes too long, and at once while that look still hangs.
        """
        known = self._running.get(path)
        if known is None or known.done():
            # A late answer is of then: the path answers again, so it is asked again.
            self._late.discard(path)
            known = self._running[path] = in_thread(work)
        if path in self._late:
            raise TimeoutError
        future: asyncio.Future[T] = known
        done, _ = await asyncio.wait({future}, timeout=LOOK_S)
        if not done:
            self._late.add(path)
            raise TimeoutError
        if self._running.get(path) is future:
            del self._running[path]
        return future.result()
