"""How much moves would copy, and whether drives have room for it. An estimate, before it begins."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from drystone_storaged.cluster.mapstate import MapState

FULL_PERCENT: Final = 85  # what is filled further by moves alone stops its writers soon


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of a drive; ``used`` with what cleaning needs."""

    capacity: int
    used: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the moves to an aim change, by drive: places gained, places lost, bytes of either."""

    moves: int
    bytes: int
    gains: Mapping[int, int]
    loses: Mapping[int, int]
    growth: Mapping[int, int]

    def overfull(self, spaces: Mapping[int, Space]) -> tuple[int, ...]:
        """Drives that would be too full afterwards; of others nothing is known to speak against."""
        return tuple(
            number
            for number, growth in sorted(self.growth.items())
            if growth > 0 and (space := spaces.get(number)) is not None
            and 100 * (space.used + growth) > FULL_PERCENT * space.capacity
        )  # fmt: skip


def forecast(
    state: MapState,
    wanted: Mapping[int, Sequence[tuple[int, ...]]],
    spaces: Mapping[int, Space],
    only: frozenset[int] | None = None,
) -> Forecast:
    """What it takes to get to ``wanted``; ``only``: as far as these drives are emptied.

    A place's size is what its drive holds, divided by its places: PGs are alike.
    """
    places = Counter(d for pg in state.known_pgs().values() for d in pg.target)
    gains: Counter[int] = Counter()
    loses: Counter[int] = Counter()
    growth: Counter[int] = Counter()
    total = 0
    for old, new in _pairs(state, wanted):
        if only is not None and old not in only:
            continue
        space = spaces.get(old)
        size = space.used // max(1, places[old]) if space else 0
        gains[new] += 1
        loses[old] += 1
        growth[new] += size
        growth[old] -= size
        total += size
    return Forecast(sum(gains.values()), total, gains, loses, growth)


def _pairs(
    state: MapState, wanted: Mapping[int, Sequence[tuple[int, ...]]]
) -> Iterator[tuple[int, int]]:
    """Every place that changes: from which drive to which."""
    for ref, record in state.known_pgs().items():
        if ref.pool in wanted:
            aim = wanted[ref.pool][ref.pg]
            olds = (d for d in record.target if d not in aim)
            yield from zip(olds, (d for d in aim if d not in record.target), strict=False)
