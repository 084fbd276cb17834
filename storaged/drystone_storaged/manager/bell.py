"""What wakes a loop of the manager: an event that others ring, or the end of a pause."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

BACKSTOP_S: Final = 30.0
"""How long a loop with nothing to do sleeps when nobody rings. Everything that makes work rings;
this bounds what a forgotten ring costs, at a price that is not measurable."""


class Bell:
    """Rings once for any number of reasons; whoever waits then looks at everything."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake who waits, or who waits next."""
        self._rung.set()

    async def wait(self, limit_s: float = BACKSTOP_S) -> None:
        """Return when it rings, or after the limit; what rings from now on counts anew."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._rung.wait()
        self._rung.clear()
