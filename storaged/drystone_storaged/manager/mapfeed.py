"""The current map in its wire form: read from the store, told to everybody who follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from drystone_common.errors import DrystoneError, InvariantError
from drystone_common.logs import get_logger
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.maprecords import TEXT_MAX, MapRecords, Refused, as_last_known
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.pgmap import encode_map
from drystone_storaged.cluster.store import CompactedError, MetadataStore
from drystone_storaged.cluster.txn import Unchanged

log = get_logger(__name__)

LOGGED_MAX: Final = 20  # of a flood of strange keys some lines suffice; the metric counts them


class MapFeed:
    """Follows the store; ``read`` never answers from memory alone, ``follow`` may."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._unchanged = Unchanged(store, lambda: read_state(store))
        self._state: MapState | None = None
        self._shown: MapState | None = None
        self._told: MapRecords | None = None
        self.refused: tuple[Refused, ...] = ()
        """Keys that are set aside, as of the newest read."""
        self._encoded: tuple[int, bytes] = (0, b"")
        self._news = asyncio.Event()
        self._term = 0
        self.on_news: list[Callable[[], None]] = []
        """Called when a newer map was read."""

    async def read(self) -> MapState:
        """The map as of now: from the store, or from memory where the store has not changed."""
        state = await self._unchanged.get()
        self._note(state)
        if self._state is None or state.revision > self._state.revision:
            self._state = state
            told = as_last_known(state.records(), self._told)
            if told is not None:
                self._told, self._shown = told, state.telling(told)
            for call in self.on_news:
                call()
            self._wake()
        return state

    def latest(self) -> MapState | None:
        """The newest map that was read; for figures, never for a decision."""
        return self._state

    def encoded(self, state: MapState) -> bytes:
        """Wire form; encoded once per revision.

        Drives and pools whose records cannot be read are told as they were last, where that is
        proven to be the newest; else ``DataError``: a map without them is told to nobody.
        """
        if self._encoded[0] != state.revision:
            told = as_last_known(state.records(), self._told)
            if told is None:
                state.require()
                raise InvariantError("a map without damage cannot be told", code="invariant_map")
            self._encoded = (state.revision, encode_map(state.telling(told).to_map()))
        return self._encoded[1]

    def _note(self, state: MapState) -> None:
        """Log what is set aside from now on."""
        if state.refused != self.refused:
            new = set(state.refused).difference(self.refused)
            for one in sorted(new, key=lambda each: each.key)[:LOGGED_MAX]:
                log.error(
                    "a record is refused", record=one.key[:TEXT_MAX], kind=one.kind.value,
                    reason=one.why,
                )  # fmt: skip
            self.refused = state.refused

    async def follow(self, have: int) -> AsyncIterator[MapState]:
        """Each newer map, the newest only for a slow reader; the current one first.

        Ends with ``end_followers``.
        """
        if self._state is None:
            await self.read()
        term = self._term
        while term == self._term:
            news, state = self._news, self._shown
            if state is not None and state.revision > have:
                have = state.revision
                yield state
            else:
                await news.wait()

    def end_followers(self) -> None:
        """Whoever follows has to find the leader anew."""
        self._term += 1
        self._wake()

    def forget(self) -> None:
        """What was read says nothing any more: an etcd that was put back counts anew, from less."""
        self._unchanged.forget()
        # What stands in for an unreadable record must have been read while this manager leads.
        self.refused = ()
        self._state, self._shown, self._told, self._encoded = None, None, None, (0, b"")

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Keep the newest map at hand; runs until cancelled."""
        await self.read()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._watch(keys.POOLS))
                group.create_task(self._watch(keys.DRIVES))
        except ExceptionGroup as errors:
            known = errors.subgroup(DrystoneError)
            if known is None:
                raise
            # Both watches fail of one cause; whoever runs us knows what to do with it.
            raise known.exceptions[0] from errors

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
