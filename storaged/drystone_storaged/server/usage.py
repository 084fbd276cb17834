"""What volumes use: each placement group's blocks are counted at its first in-sync drive, once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from drystone_storaged.cluster.pgmap import decode_map, decode_shard

PgKey = tuple[int, int]
NOWHERE: Final[frozenset[PgKey]] = frozenset()


def first_in_sync(data: bytes) -> dict[int, frozenset[PgKey]]:
    """Placement groups (pool, number) of which each drive is the first in-sync member."""
    first: dict[int, set[PgKey]] = defaultdict(set)
    for pool in decode_map(data).pools if data else ():
        records = (record for shard in pool.shards for record in decode_shard(shard))
        for number, record in enumerate(records):
            first[record.insync[0]].add((pool.id, number))
    return {drive: frozenset(pgs) for drive, pgs in first.items()}


class DriveUsage:
    """Mapped slots per layer and placement group on one drive since it was opened."""

    def __init__(self) -> None:
        self._slots: dict[int, dict[PgKey, int]] = defaultdict(dict)
        self._counted = NOWHERE
        self._changed: set[int] = set()

    def add(self, layer: int, pg: PgKey, delta: int) -> None:
        """Take a change over."""
        slots = self._slots[layer]
        slots[pg] = slots.get(pg, 0) + delta
        if not slots[pg]:
            del slots[pg]
        self._changed.add(layer)

    def count(self, pgs: frozenset[PgKey]) -> None:
        """From now on the drive speaks for these placement groups, and no others."""
        if pgs != self._counted:
            self._counted = pgs
            self._changed.update(self._slots)

    def take(self, *, everything: bool) -> Iterator[tuple[int, int]]:
        """Give (layer, slots) of the layers that changed since the last call, or of all."""
        chosen = set(self._slots) if everything else self._changed
        self._changed = set()
        for layer in sorted(chosen):
            slots = self._slots[layer]
            yield layer, sum(n for pg, n in slots.items() if pg in self._counted)
            if not slots:
                del self._slots[layer]
