"""Flips bits in a drive file, as a failing drive would: behind everybody's back."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

from tests.e2e.lib.content import BLOCK_BYTES

READ_BYTES: Final = 4 << 20
KEY_BYTES: Final = 16
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


def _find(file: int, keys: dict[bytes, bytes]) -> Iterator[int]:
    for begin, end in _extents(file):
        for at in range(begin, end, READ_BYTES):
            data = os.pread(file, min(READ_BYTES, end - at), at)
            for n in range(0, len(data), BLOCK_BYTES):
                wanted = keys.get(data[n : n + KEY_BYTES])
                if wanted is not None and data[n : n + BLOCK_BYTES] == wanted:
                    yield at + n


def _extents(file: int) -> Iterator[tuple[int, int]]:
    """Where a sparse file has data."""
    size = os.fstat(file).st_size
    end = 0
    while end < size:
        try:
            begin = os.lseek(file, end, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(file, begin, os.SEEK_HOLE)
        yield begin, end
