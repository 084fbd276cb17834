"""Flips bits in a drive file, as a failing drive would: behind everybody's back."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

from tests.e2e.lib.content import BLOCK_BYTES
from tests.e2e.lib.sparse import extents

READ_BYTES: Final = 4 << 20
KEY_BYTES: Final = 64  # the head of a block names its volume, place and write
FLIP_AT: Final = 1000  # anywhere inside the block
FLIP: Final = 0x10


def flip(image: Path, blocks: Collection[bytes]) -> int:
    """Flip one bit of every stored copy of these blocks in the file; the number flipped."""
    keys = {block[:KEY_BYTES]: block for block in blocks}
    flipped = 0
    file = os.open(image, os.O_RDWR)
    try:
        for offset in list(_find(file, keys)):
            (byte,) = os.pread(file, 1, offset + FLIP_AT)
            os.pwrite(file, bytes([byte ^ FLIP]), offset + FLIP_AT)
            flipped += 1
        os.fsync(file)
    finally:
        os.close(file)
    return flipped


KINDS: Final = ("flip", "zeros", "swap")
"""What may become of a block: one bit, all of it, or the bytes of another one of the same file."""


def damage(image: Path, blocks: Collection[bytes], kinds: Sequence[str]) -> int:
    """Damage stored copies of these blocks, each in the next of these ways; how many."""
    keys = {block[:KEY_BYTES]: block for block in blocks}
    file = os.open(image, os.O_RDWR)
    try:
        found = list(_find(file, keys))
        data = [os.pread(file, BLOCK_BYTES, at) for at in found]
        for n, at in enumerate(found):
            os.pwrite(file, _damaged(data[n], data[n - 1], kinds[n % len(kinds)]), at)
        os.fsync(file)
    finally:
        os.close(file)
    return len(found)


def _damaged(data: bytes, other: bytes, kind: str) -> bytes:
    if kind == "zeros" or (kind == "swap" and other == data):
        return bytes(BLOCK_BYTES)
    if kind == "swap":
        return other
    return data[:FLIP_AT] + bytes([data[FLIP_AT] ^ FLIP]) + data[FLIP_AT + 1 :]


def _find(file: int, keys: dict[bytes, bytes]) -> Iterator[int]:
    for begin, end in extents(file):
        for at in range(begin, end, READ_BYTES):
            data = os.pread(file, min(READ_BYTES, end - at), at)
            for n in range(0, len(data), BLOCK_BYTES):
                wanted = keys.get(data[n : n + KEY_BYTES])
                if wanted is not None and data[n : n + BLOCK_BYTES] == wanted:
                    yield at + n
