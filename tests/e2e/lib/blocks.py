"""Known blocks on a volume without a file system: what a file set is on one with."""

from __future__ import annotations

from typing import Final

from tests.e2e.lib.content import BLOCK_BYTES, content
from tests.e2e.lib.disk import open_disk

STEP_BLOCKS: Final = 256
"""Blocks of one `add`: as many bytes as one file of a file set."""


class BlockSet:
    """Blocks from block ``first`` on, each written once. ``where``: device or NBD address."""

    def __init__(self, where: str, first: int, seed: int) -> None:
        self.where = where
        self.first = first
        self.seed = seed
        self.count = 0

    def add(self) -> None:
        """Write the next blocks durably."""
        data = b"".join(content(self.seed, self.count + n, 1) for n in range(STEP_BLOCKS))
        disk = open_disk(self.where)
        try:
            disk.write((self.first + self.count) * BLOCK_BYTES, data)
        finally:
            disk.close()
        self.count += STEP_BLOCKS

    @property
    def bytes_known(self) -> int:
        """Bytes written so far."""
        return self.count * BLOCK_BYTES

    def verify(self) -> int:
        """Bytes checked; ValueError on a difference."""
        disk = open_disk(self.where)
        try:
            for begin in range(0, self.count, STEP_BLOCKS):
                data = disk.read((self.first + begin) * BLOCK_BYTES, STEP_BLOCKS * BLOCK_BYTES)
                self._compare(begin, data)
        finally:
            disk.close()
        return self.count * BLOCK_BYTES

    def _compare(self, begin: int, data: bytes) -> None:
        for n in range(STEP_BLOCKS):
            wanted = content(self.seed, begin + n, 1)
            if data[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES] != wanted:
                raise ValueError(f"block {self.first + begin + n} of {self.where} is wrong")
