"""Files with holes: where they have data, and copies that keep the holes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def extents(file: int) -> Iterator[tuple[int, int]]:
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


def copy_sparse(source: Path, target: Path) -> int:
    """Copy what the source has, in the kernel; bytes copied."""
    copied = 0
    read = os.open(source, os.O_RDONLY)
    try:
        write = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.ftruncate(write, os.fstat(read).st_size)
            for begin, end in extents(read):
                copied += _copy(read, write, begin, end)
        finally:
            os.close(write)
    finally:
        os.close(read)
    return copied


def _copy(read: int, write: int, begin: int, end: int) -> int:
    at = begin
    while at < end:
        done = os.copy_file_range(read, write, end - at, at, at)
        if done == 0:
            break
        at += done
    return at - begin
