"""Numbers that are never given twice, from counters in the metadata store."""

from __future__ import annotations

import asyncio
from typing import Final

from drystone_common.errors import NoSpaceError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.store import Compare, MetadataStore, Put
from drystone_storaged.cluster.txn import retrying

RANGE: Final = 1_000  # ids a manager takes at once, so that a create is one uncontended transaction
LIMITS: Final = {
    "object": 2**63 - 1,
    "order": 2**63 - 1,
    "task": 2**63 - 1,
    "drive": 2**32 - 1,
    "pool": 1023,  # 10 bits on the wire, 0 unused
}
"""Largest number of each kind: what its field in records and on the wire can hold."""
SINGLE: Final = frozenset({"drive", "pool"})
"""Kinds with small fields: taken one by one, a restart must not waste a thousand of them."""


class IdAllocator:
    """Gives ids of any kind; ids of a range that a manager did not use are lost, never reused."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store
        self._ranges: dict[str, tuple[int, int]] = {}
        self._lock = asyncio.Lock()

    async def take(self, kind: str) -> int:
        """Give the next id of a kind, from 1."""
        async with self._lock:
            start, end = self._ranges.get(kind, (0, 0))
            if start == end:
                count = 1 if kind in SINGLE else RANGE
                start, end = await self._reserve(kind, count)
            self._ranges[kind] = (start + 1, end)
            return start

    async def _reserve(self, kind: str, count: int) -> tuple[int, int]:
        key = keys.id_counter(kind)

        async def attempt() -> tuple[int, int] | None:
            found = await self._store.get(key)
            start = int(found.value) if found else 1
            if start + count - 1 > LIMITS[kind]:
                raise NoSpaceError(f"all ids of kind {kind} are used up", code="ids_exhausted")
            compare = Compare.mod(key, found.mod_revision if found else 0)
            done = await self._store.txn([compare], [Put(key, str(start + count).encode())])
            return (start, start + count) if done.succeeded else None

        return await retrying(attempt, f"ids of kind {kind}")
