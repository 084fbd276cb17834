"""Runs in a pod, alone: writes numbered records for ever and prints what it found and did.

A line of JSON each: `found` (what an earlier writer left), `at` (every 0.2 s: the last record that
was acknowledged, the longest pause between two so far), `error`, and `ended` after SIGTERM, when
everything that this writer wrote was read once more: a record of somebody else in its place
would be a second writer. Position and content follow from the number, so nothing has to be kept.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
import time
import uuid
import zlib
from pathlib import Path

RECORD = 4096
SLOTS = 1024  # 4 MiB: read whole at each start, written round in some seconds
HEADER = struct.Struct("<8sQ16sI")
MAGIC = b"ledger01"
PAUSE_S = 0.003  # the point is order and content, not speed: the machine has other work
SAY_S = 0.2
O_DIRECT = getattr(os, "O_DIRECT", 0)


def main() -> int:
    """Write until SIGTERM."""
    path = Path(sys.argv[1])
    running = [True]
    signal.signal(signal.SIGTERM, lambda *_: running.__setitem__(0, False))
    me = uuid.uuid4().bytes
    file = _open(path)
    buffer = mmap.mmap(-1, RECORD)  # aligned, as O_DIRECT wants it
    last, damaged = _look(file, buffer)
    _say("found", last=last, damaged=damaged, writer=me.hex())
    number, longest = last, 0.0
    first = number + 1
    done = said = time.monotonic()
    while running[0]:
        try:
            buffer[:] = _record(number + 1, me)
            os.pwritev(file, [buffer], (number + 1) % SLOTS * RECORD)
        except OSError as error:
            _say("error", number=number + 1, errno=error.errno or 0)
            return 1
        number += 1
        now = time.monotonic()
        longest, done = max(longest, now - done), now
        if now - said >= SAY_S:
            _say("at", last=number, longest_s=round(longest, 3), writer=me.hex())
            said = now
        time.sleep(PAUSE_S)
    foreign = _foreign(file, buffer, me, max(first, number - SLOTS + 1), number)
    _say("ended", last=number, longest_s=round(longest, 3), foreign=foreign, writer=me.hex())
    return 0


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_DSYNC | O_DIRECT
    if not path.exists():
        temporary = path.with_suffix(".new")
        with temporary.open("wb") as new:
            new.write(bytes(RECORD * SLOTS))
            new.flush()
            os.fsync(new.fileno())
        temporary.rename(path)
        folder = os.open(path.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    return os.open(path, flags)


def _record(number: int, writer: bytes) -> bytes:
    body = (number.to_bytes(8, "little") * (RECORD // 8))[HEADER.size :]
    check = zlib.crc32(body, zlib.crc32(writer))
    return HEADER.pack(MAGIC, number, writer, check) + body


def _read(file: int, buffer: mmap.mmap, slot: int) -> tuple[int, bytes] | None:
    """Number and writer of a slot; (0, b"") when it was never written; None when damaged."""
    if os.preadv(file, [buffer], slot * RECORD) != RECORD:
        return None
    content = buffer[:]
    if not any(content):
        return 0, b""
    magic, number, writer, _ = HEADER.unpack_from(content)
    if magic != MAGIC or number % SLOTS != slot or content != _record(number, writer):
        return None
    return number, writer


def _look(file: int, buffer: mmap.mmap) -> tuple[int, int]:
    """The last record, and how many of the round before it are not what they must be."""
    slots = [_read(file, buffer, slot) for slot in range(SLOTS)]
    last = max((found[0] for found in slots if found), default=0)
    damaged = 0
    for number in range(max(1, last - SLOTS + 1), last + 1):
        found = slots[number % SLOTS]
        damaged += found is None or found[0] != number
    return last, damaged


def _foreign(file: int, buffer: mmap.mmap, me: bytes, first: int, last: int) -> int:
    found = (_read(file, buffer, number % SLOTS) for number in range(first, last + 1))
    return sum(
        each != (number, me) for number, each in zip(range(first, last + 1), found, strict=True)
    )


def _say(event: str, **values: object) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
