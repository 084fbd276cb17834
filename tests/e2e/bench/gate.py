"""Waits for a quiet machine: figures taken while something else runs are worth nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.bench.floors import durable_write, ping_pong_us

NEAR: Final = 1.35
"""So much above the best seen still counts as quiet; loopback times scatter by a fifth."""

WAIT_MAX_S: Final = 120.0
PAUSE_S: Final = 5.0


@dataclass(slots=True)
class Gate:
    """Remembers the best floors of this run. ``seconds`` for each of its two probes."""

    folder: Path
    seconds: float = 2.0
    best_ping_us: float = float("inf")
    best_sync_us: float = float("inf")
    waited: int = 0
    forced: int = 0

    def pass_through(self, say: Callable[[str], None]) -> None:
        """Return when both floors are near their best, or after two minutes, counting that."""
        end = time.monotonic() + WAIT_MAX_S
        while True:
            ping = ping_pong_us(self.seconds)
            sync = durable_write(self.folder, self.seconds).latency_us
            self.best_ping_us = min(self.best_ping_us, ping)
            self.best_sync_us = min(self.best_sync_us, sync)
            quiet = ping <= self.best_ping_us * NEAR and sync <= self.best_sync_us * NEAR
            if quiet:
                return
            if time.monotonic() > end:
                self.forced += 1
                say(f"gate: still busy (ping {ping:.0f} µs, write {sync:.0f} µs), going on")
                return
            self.waited += 1
            time.sleep(PAUSE_S)
