"""Notices at once that nobody leads any more."""

from __future__ import annotations

import asyncio
import contextlib

from drystone_common.errors import DrystoneError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.store import MetadataStore


class Vacancy:
    """Watches the leader's key, for a manager that does not lead.

    Each moment in which nobody leads is one in which a lost node is not dropped. A watch that fails
    or hangs costs nothing: then the key is looked at as often as without it.
    """

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._watch: asyncio.Task[bool] | None = None

    async def wait(self, seen: int, limit_s: float) -> None:
        """Return when the key that was read at revision ``seen`` goes, or after the limit.

        0: there was none. Who lost the race for it looks again after the limit.
        """
        failed = self._ended()
        if failed or not seen:
            await asyncio.sleep(limit_s)
            return
        if self._watch is None:
            self._watch = asyncio.create_task(self._gone(seen), name="vacancy")
        try:
            await asyncio.wait((self._watch,), timeout=limit_s)
        except asyncio.CancelledError:
            self.stop()
            raise

    def _ended(self) -> bool:
        """Forget a watch that has ended; gives whether it failed."""
        watch = self._watch
        if watch is None or not watch.done():
            return False
        self._watch = None
        return watch.cancelled() or not watch.result()

    def stop(self) -> None:
        """Watch no more."""
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def _gone(self, seen: int) -> bool:
        """Return when the key goes; False where the store cannot be watched."""
        with contextlib.suppress(DrystoneError):
            async for batch in self._store.watch(keys.LEADER, seen + 1):
                if any(event.key == keys.LEADER and event.value is None for event in batch.events):
                    return True
        return False
