"""One way to read and durably write a volume, whether it is a device here or an NBD export."""

from __future__ import annotations

import mmap
import os
from typing import Protocol

from tests.e2e.lib.nbd import Nbd


class Disk(Protocol):
    """Offsets and lengths are multiples of 4096."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the volume, not those of a cache on this side."""

    def write(self, offset: int, data: bytes) -> None:
        """Return when it is durable."""

    def close(self) -> None:
        """Give the connection or file back."""


class Device:
    """A block device, past the page cache. One thread at a time."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_DSYNC)

    def read(self, offset: int, length: int) -> bytes:
        """See ``Disk``."""
        with mmap.mmap(-1, length) as buffer:  # page aligned, as O_DIRECT wants it
            done = os.preadv(self._file, [buffer], offset)
            return buffer[:done]

    def write(self, offset: int, data: bytes) -> None:
        """See ``Disk``."""
        with mmap.mmap(-1, len(data)) as buffer:
            buffer[:] = data
            done = os.pwritev(self._file, [buffer], offset)
        if done != len(data):
            raise OSError(f"wrote {done} of {len(data)} bytes")

    def close(self) -> None:
        """See ``Disk``."""
        os.close(self._file)


def open_disk(where: str) -> Disk:
    """Open a device path or an ``nbd+unix`` address."""
    return Nbd(where) if where.startswith("nbd+unix:") else Device(where)
