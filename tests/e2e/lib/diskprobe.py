"""The host's disk: a process that makes a few bytes durable now and then, and notes when that took.

It writes beside a run's drives and stores, so what they do slows it as well. Its figure is no
measure of a product therefore, and nothing is taken off because of it: it only says that a time
in which a disk stood still for everybody is one of which nothing can be said.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

from tests.e2e.lib.ticker import STALLS_MAX, STOP_WAIT_S, Stalls

PERIOD_S: Final = 0.1  # ten small flushes a second: one in a hundred of what a run's drives do
STALL_S: Final = 0.25  # of 4 KiB on a busy disk; what a pause is that a user sees
BYTES: Final = 4096


class DiskProbe:
    """Runs the process from construction until ``stop``; ``folder`` is on the disk meant."""

    def __init__(self, folder: Path) -> None:
        argv = [sys.executable, "-m", "tests.e2e.lib.diskprobe", str(folder / "probe")]
        # In a session of its own: a signal to the whole group of the program must not end it first.
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def stop(self) -> Stalls:
        """End it and give the times in which the disk stood still."""
        output, _ = self._process.communicate("", timeout=STOP_WAIT_S)
        return Stalls(tuple((begin, end) for begin, end in json.loads(output)))


def _main(path: Path) -> None:
    stalls: list[tuple[float, float]] = []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_DSYNC, 0o600)
    while not select.select([sys.stdin], [], [], PERIOD_S)[0]:
        begin = time.monotonic()
        os.pwrite(file, bytes(BYTES), 0)
        end = time.monotonic()
        if end - begin > STALL_S and len(stalls) < STALLS_MAX:
            stalls.append((begin, end))
    os.close(file)
    path.unlink()
    print(json.dumps(stalls))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
