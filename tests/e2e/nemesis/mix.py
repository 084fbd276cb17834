"""What a load is made of: where its blocks are, and which request comes next."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from tests.e2e.nemesis.history import Verb

FLUSHES: Final = 0.05
READS: Final = 0.4
LARGE: Final = 0.1
LARGE_BLOCKS: Final = (2, 16)
OWN: Final = 0.15
COLD: Final = 0.35


@dataclass(frozen=True, slots=True)
class Layout:
    """Blocks of the volume, in this order: everybody's, rarely touched, each connection's own."""

    hot: int = 64
    cold: int = 1024
    trimmed: int = 16

    def blocks(self, connections: int) -> int:
        """All of them."""
        return self.hot + self.cold + self.trimmed * connections


@dataclass(frozen=True, slots=True)
class Task:
    """What one process of load does. ``first_client``: the first connection's number."""

    folder: str
    uri: str
    seed: int
    volume: int
    first_client: int
    connections: int = 4
    attach: int = 1
    generation: int = 1
    think_s: float = 0.005
    layout: Layout = field(default_factory=Layout)


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and by which attachment."""

    uri: str
    attach: int
    generation: int


@dataclass(frozen=True, slots=True)
class Wish:
    """One request to make."""

    verb: Verb
    block: int
    blocks: int


def choose(rng: random.Random, layout: Layout, index: int) -> Wish:
    """Give the next request of a volume's ``index``-th connection."""
    if rng.random() < FLUSHES:
        return Wish(Verb.FLUSH, 0, 0)
    where = rng.random()
    first, size = 0, layout.hot
    if where < OWN and layout.trimmed:
        first, size = layout.blocks(index), layout.trimmed
    elif where < OWN + COLD and layout.cold:
        first, size = layout.hot, layout.cold
    blocks = min(size, rng.randint(*LARGE_BLOCKS) if rng.random() < LARGE else 1)
    block = first + rng.randint(0, size - blocks)
    if rng.random() < READS:
        return Wish(Verb.READ, block, blocks)
    # Only one connection works on a block that is trimmed: that keeps the search of them narrow.
    own = first >= layout.hot + layout.cold
    return Wish(Verb.TRIM if own and rng.random() < 1 / 2 else Verb.WRITE, block, blocks)
