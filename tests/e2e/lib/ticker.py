"""The host's own stalls: a process that wants to wake every 5 ms and notes when it could not."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Final

PERIOD_S: Final = 0.005
STALL_S: Final = 0.02  # below this it is ordinary scheduling on a busy machine
STALLS_MAX: Final = 10_000  # a run of minutes on a bad host has some hundred
STOP_WAIT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Stalls:
    """Intervals (CLOCK_MONOTONIC seconds) in which the host did not run us."""

    intervals: tuple[tuple[float, float], ...]

    @property
    def longest_s(self) -> float:
        """The longest one."""
        return max((end - begin for begin, end in self.intervals), default=0.0)

    def within(self, begin: float, end: float) -> float:
        """Seconds of stall inside a period."""
        return sum(max(0.0, min(b, end) - max(a, begin)) for a, b in self.intervals)

    def without(self, other: Stalls) -> Stalls:
        """What of these is in none of the others."""
        left = list(self.intervals)
        for begin, end in other.intervals:
            cut = ((a, min(b, begin), max(a, end), b) for a, b in left)
            left = [each for a, b, c, d in cut for each in ((a, b), (c, d)) if each[0] < each[1]]
        return Stalls(tuple(left))


class Ticker:
    """Runs the process from construction until ``stop``."""

    def __init__(self) -> None:
        argv = [sys.executable, "-m", "tests.e2e.lib.ticker"]
        # In a session of its own: a signal to the whole group of the program must not end it first.
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def stop(self) -> Stalls:
        """End it and give what it saw."""
        output, _ = self._process.communicate("", timeout=STOP_WAIT_S)
        return Stalls(tuple((begin, end) for begin, end in json.loads(output)))


def _main() -> None:
    stalls: list[tuple[float, float]] = []
    last = time.monotonic()
    # The pipe's end is the sign to stop; waiting on it is the 5 ms sleep at the same time.
    while not select.select([sys.stdin], [], [], PERIOD_S)[0]:
        now = time.monotonic()
        if now - last > STALL_S and len(stalls) < STALLS_MAX:
            stalls.append((last + PERIOD_S, now))
        last = now
    print(json.dumps(stalls))


if __name__ == "__main__":
    _main()
