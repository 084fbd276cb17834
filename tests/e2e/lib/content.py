"""Known data: what a block holds follows from its place, a seed and the number of the write."""

from __future__ import annotations

import hashlib
from typing import Final

BLOCK_BYTES: Final = 4096


def content(seed: int, slot: int, sequence: int) -> bytes:
    """Bytes of the ``sequence``-th write of block ``slot``; no two of them are equal."""
    key = b"%d/%d/%d" % (seed, slot, sequence)
    return hashlib.shake_128(key).digest(BLOCK_BYTES)


def matching_sequence(seed: int, slot: int, data: bytes, candidates: range) -> int | None:
    """Which of these writes the bytes are; None when they are none of them."""
    return next((n for n in candidates if content(seed, slot, n) == data), None)
