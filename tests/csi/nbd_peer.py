"""An NBD server for the tests of attachers: nbdkit on a file, killed and restarted at will."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import pytest

NEEDED = pytest.mark.skipif(shutil.which("nbdkit") is None, reason="nbdkit is not installed")
"""Mark of tests with a ``Server``."""


class Server:
    """Serves ``disk`` on ``socket``; a restart keeps the bytes that were acknowledged."""

    def __init__(self, folder: Path, size: int) -> None:
        self.socket = folder / "nbd.sock"
        self.disk = folder / "disk"
        self.process: subprocess.Popen[bytes] | None = None
        with self.disk.open("wb") as file:
            file.truncate(size)

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        argv = ["nbdkit", "-f", "-U", str(self.socket), "file", str(self.disk)]
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL)
        wait_for(self.socket.exists, "nbdkit listens")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None

    def grow(self, size: int) -> None:
        with self.disk.open("ab") as file:
            file.truncate(size)


def wait_for(condition, what: str, deadline_s: float = 30.0) -> None:
    """Wait for a condition, or fail saying what did not come."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"did not happen in {deadline_s} s: {what}")
        time.sleep(0.02)


def pattern(number: int) -> bytes:
    return number.to_bytes(8, "little") * 512


class Writer(threading.Thread):
    """Writes numbered blocks, each flushed, until told to stop; remembers an error."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device, self.count, self.go = device, 0, True
        self.error: OSError | None = None
        self.start()

    def run(self) -> None:
        try:
            with Path(self.device).open("r+b", buffering=0) as file:
                while self.go:
                    file.seek(self.count % 1024 * 4096)
                    file.write(pattern(self.count))
                    os.fdatasync(file)
                    self.count += 1
        except OSError as error:
            self.error = error

    def stop(self) -> None:
        self.go = False
        self.join()

    def progress(self, deadline_s: float = 30.0) -> None:
        target = self.count + 20
        wait_for(lambda: self.error is not None or self.count >= target, "writes go on", deadline_s)
        assert self.error is None
