"""The host's disk: a process makes 4 KiB durable ten times a second, and notes when it took long.

It writes beside a run's drives and stores, so what they do slows it as well. Its figure is
therefore no measure of the product, and nothing is taken off because of it: it only says that
nothing can be said of a time in which the disk stood still for everybody.
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

from tests.e2e.lib.shell import LabError
from tests.e2e.lib.ticker import STALLS_MAX, Stalls

PERIOD_S: Final = 0.1  # ten small flushes a second: one in a hundred of what a run's drives do
STALL_S: Final = 0.25  # far above a 4 KiB flush on a busy disk, and a pause that a user notices
BYTES: Final = 4096
STOP_WAIT_S: Final = 60.0  # hosts were seen whose disk stood still for seconds; longer is a failure


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
        try:
            output, _ = self._process.communicate("", timeout=STOP_WAIT_S)
        except subprocess.TimeoutExpired as error:
            self._process.kill()
            self._process.wait()
            raise LabError(f"the host's disk stands still for {STOP_WAIT_S:.0f} s") from error
        if self._process.returncode != 0:
            raise LabError("the probe of the host's disk died: is the disk full?")
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
