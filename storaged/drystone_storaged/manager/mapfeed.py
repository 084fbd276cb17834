"""The current map in its wire form: read from the store, told to everybody who follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from drystone_common.logs import get_logger
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.pgmap import encode_map
from drystone_storaged.cluster.store import CompactedError, MetadataStore

log = get_logger(__name__)


class MapFeed:
    """Follows the store; ``read`` never answers from memory alone, ``follow`` may."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._state: MapState | None = None
        self._encoded: tuple[int, bytes] = (0, b"")
        self._news = asyncio.Condition()
        self.on_news: list[Callable[[], None]] = []
        """Called when a newer map was read."""

    async def read(self) -> MapState:
        """The map as of now, from the store."""
        state = await read_state(self._store)
        if self._state is None or state.revision > self._state.revision:
            self._state = state
            for call in self.on_news:
                call()
            async with self._news:
                self._news.notify_all()
        return state

    def latest(self) -> MapState | None:
        """The newest map that was read; for figures, never for a decision."""
        return self._state

    def encoded(self, state: MapState) -> bytes:
        """Wire form; encoded once per revision."""
        if self._encoded[0] != state.revision:
            self._encoded = (state.revision, encode_map(state.to_map()))
        return self._encoded[1]

    async def follow(self, have: int) -> AsyncIterator[MapState]:
        """Each newer map, the newest only for a slow reader; the current one first."""
        if self._state is None:
            await self.read()
        while True:
            async with self._news:
                await self._news.wait_for(
                    lambda at=have: self._state is not None and self._state.revision > at  # type: ignore[misc]
                )
                state = self._state
            if state is not None:
                have = state.revision
                yield state

    async def run(self) -> None:
        """Keep the newest map at hand; runs until cancelled."""
        await self.read()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch(keys.POOLS))
            group.create_task(self._watch(keys.DRIVES))

    async def _watch(self, prefix: str) -> None:
        while True:
            start = await self._store.revision() + 1
            # What changed before the watch began is read here; nothing falls in between.
            await self.read()
            try:
                async for _ in self._store.watch(prefix, start):
                    await self.read()
            except CompactedError:
                log.warning("map watch fell behind, reading anew", prefix=prefix)
