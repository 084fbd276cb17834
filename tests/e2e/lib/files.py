"""Known files on a mounted volume: random bytes, fsynced, with a checksum file beside them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

FILE_BYTES: Final = 1 << 20
SUMS: Final = "SHA256SUMS"


class FileSet:
    """Files of 1 MiB in a folder. One thread adds, afterwards anybody verifies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.count = 0

    def add(self) -> None:
        """Write one file durably, then its line of the checksum file."""
        data = os.urandom(FILE_BYTES)
        name = f"file-{self.count:05}"
        _write_synced(self._folder / name, data, os.O_TRUNC)
        line = f"{hashlib.sha256(data).hexdigest()}  {name}\n".encode()
        _write_synced(self._folder / SUMS, line, os.O_APPEND)
        self.count += 1

    @property
    def bytes_known(self) -> int:
        """Bytes written so far, without the checksum file."""
        return self.count * FILE_BYTES

    def verify(self) -> int:
        """Bytes checked, read past the cache; ValueError on a difference."""
        lines = (self._folder / SUMS).read_text().splitlines()
        if len(lines) != self.count:
            raise ValueError(f"{SUMS} has {len(lines)} lines, {self.count} were written")
        checked = 0
        for line in lines:
            wanted, name = line.split()
            data = _read_uncached(self._folder / name)
            if hashlib.sha256(data).hexdigest() != wanted:
                raise ValueError(f"{self._folder / name} differs from its checksum")
            checked += len(data)
        return checked


def _write_synced(path: Path, data: bytes, flags: int) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]
        os.fsync(file)
    finally:
        os.close(file)


def _read_uncached(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        # What was fsynced is clean, so the cache lets go of it and the read meets the volume.
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return file.read()
