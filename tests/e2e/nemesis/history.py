"""What happened on the blocks of one volume, as its clients saw it: the input of the checker.

Times are CLOCK_MONOTONIC seconds. An operation took effect at one moment between its start and
its end; one whose outcome nobody learned may take effect at any time after its start, or never,
so its end is ``NEVER``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

NEVER: Final = math.inf
ALWAYS: Final = -math.inf
"""Before everything: when what stood on a volume at first was written."""

ZERO: Final = 0
"""Value of a block of zeros: never written, or trimmed."""

DAMAGED: Final = (1 << 64) - 1
"""Value of a block that held what nobody wrote there."""

COUNT_BITS: Final = 40
"""A client of a thousand writes a second counts for 34 years, and there may be 2**24 of them."""

CLIENT_MAX: Final = (1 << 64 - COUNT_BITS) - 2  # the last one would collide with DAMAGED


class Verb(IntEnum):
    """What was asked for, or what else a journal tells."""

    READ = 0
    WRITE = 1
    TRIM = 2
    FLUSH = 3
    CONNECT = 4
    FENCE = 5


CHANGES: Final = (Verb.WRITE, Verb.TRIM)


class Op(NamedTuple):
    """One operation on one block. A named tuple: a million of them are made in one check.

    ``value`` is what was written, or what a read saw. ``attach`` counts the attachments of the
    volume, ``generation`` is the volume's own count of them.
    """

    verb: int
    start: float
    end: float
    value: int
    client: int
    attach: int
    generation: int

    @property
    def unknown(self) -> bool:
        """Whether nobody knows if it took effect."""
        return self.end == NEVER


@dataclass(slots=True)
class History:
    """Operations by block. Operations of one block need no order.

    ``fences``: attachment → moment from which it is proven that it can change nothing any more.
    """

    blocks: dict[int, list[Op]] = field(default_factory=dict)
    fences: Mapping[int, float] = field(default_factory=dict)

    def add(self, block: int, op: Op) -> None:
        """Note one operation."""
        ops = self.blocks.get(block)
        if ops is None:
            self.blocks[block] = [op]
        else:
            ops.append(op)


def value_of(client: int, count: int) -> int:
    """Value of a client's ``count``-th write; both count from 1."""
    if not (0 < client <= CLIENT_MAX and 0 < count < 1 << COUNT_BITS):
        raise ValueError(f"no write {count} of client {client} can be told from others")
    return client << COUNT_BITS | count


def writer_of(value: int) -> tuple[int, int]:
    """Client and count of a written value."""
    return value >> COUNT_BITS, value & (1 << COUNT_BITS) - 1


def first_value(value: int, at: float = ALWAYS) -> Op:
    """What stood on the block before anything else: a write of nobody's."""
    return Op(Verb.WRITE, at, at, value, 0, 0, 0)
