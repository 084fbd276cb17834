"""What a client wrote down: an append-only file of records of 48 bytes for each connection.

A change is noted before its request is sent and again with its outcome, so that whatever may have
reached the volume is known even if the client is killed. Records are written with one ``write``
each and without fsync: the machine under the nemesis does not crash, its processes do.
Every opening begins a new segment, a file of its own, so a torn end is never written over.
"""

from __future__ import annotations

import os
import re
import struct
import time
import zlib
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

# kind, verb, blocks, checksum of all the rest, block, number, start, end, attach, generation
_FORMAT: Final = struct.Struct("<BBHIQQddII")
RECORD_BYTES: Final = _FORMAT.size
_CHECKED: Final = slice(8, None)  # behind the checksum; what is before it is checked, too
_SEGMENT: Final = re.compile(r"(\d{8})-(\d{6})\.journal")
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Kind(IntEnum):
    """What a record tells of a request."""

    START = 1
    INVOKE = 2
    OK = 3
    ERROR = 4
    LOST = 5


class JournalDamagedError(Exception):
    """A journal does not hold what was written: nothing can be judged by it."""


class Record(NamedTuple):
    """One line of a journal.

    ``number``: the value written or seen; of a START the boot, of a FENCE nothing.
    ``start`` of a START is wall-clock time: it tells which boot came first.
    """

    kind: int
    verb: int
    blocks: int
    block: int
    number: int
    start: float
    end: float
    attach: int
    generation: int


def packed(record: Record) -> bytes:
    """48 bytes."""
    kind, verb, blocks, *rest = record
    plain = _FORMAT.pack(kind, verb, blocks, 0, *rest)
    return _FORMAT.pack(kind, verb, blocks, _checksum(plain), *rest)


def _checksum(plain: bytes) -> int:
    return zlib.crc32(plain[_CHECKED], zlib.crc32(plain[:4]))


class Segment(NamedTuple):
    """A file of one connection between two of its openings."""

    client: int
    number: int
    path: Path


def segments(folder: Path) -> list[Segment]:
    """List those of a volume, each client's in order."""
    found = []
    for path in folder.iterdir():
        match = _SEGMENT.fullmatch(path.name)
        if match:
            found.append(Segment(int(match[1]), int(match[2]), path))
    return sorted(found)


def records(path: Path) -> Iterator[Record]:
    """Read a segment; a torn last record was never completed and does not count."""
    data = path.read_bytes()
    whole = len(data) - len(data) % RECORD_BYTES
    for at in range(0, whole, RECORD_BYTES):
        raw = data[at : at + RECORD_BYTES]
        kind, verb, blocks, crc, *rest = _FORMAT.unpack(raw)
        if crc != _checksum(raw):
            if at + RECORD_BYTES >= whole:
                return
            raise JournalDamagedError(
                f"record {at // RECORD_BYTES} of {path} is damaged and others follow it: "
                "the file system under the nemesis lost it, so this run cannot be judged"
            )
        yield Record(kind, verb, blocks, *rest)


def boot() -> int:
    """A number of this boot of the machine: monotonic times of two boots cannot be compared."""
    return int(_BOOT_ID.read_text().replace("-", "")[:16], 16)


class Journal:
    """Appends to the newest segment of one connection. One thread at a time.

    Segments up to ``covered`` are in a base already, whether they are still there or not.
    """

    def __init__(self, folder: Path, client: int, covered: int = 0) -> None:
        self._folder, self._client = folder, client
        self._file = -1
        mine = [each.number for each in segments(folder) if each.client == client]
        self.segment = max([covered, *mine])
        self.rotate()

    def rotate(self) -> None:
        """Begin the next segment."""
        self.close()
        self.segment += 1
        path = self._folder / f"{self._client:08}-{self.segment:06}.journal"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file = os.open(path, flags, 0o644)
        self.note(Record(Kind.START, 0, 0, 0, boot(), time.time(), time.monotonic(), 0, 0))

    def note(self, record: Record) -> None:
        """Append; it is there even if this process is killed at once."""
        done = os.write(self._file, packed(record))
        if done != RECORD_BYTES:
            raise OSError(f"{done} of {RECORD_BYTES} bytes of a journal were written")

    def close(self) -> None:
        """Give the file back."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()
