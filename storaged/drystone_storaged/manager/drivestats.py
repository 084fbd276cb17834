"""What servers last said of their drives: space, service time, resync. In memory only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from drystone_storaged.proto import control_pb2 as pb

STALE_S: Final = 30.0  # six reports missed: the figures are history and count no more


@dataclass(frozen=True, slots=True)
class DriveFigures:
    """One report."""

    at_s: float
    capacity: int
    used: int
    reserved: int
    p99_us: int
    resync_left: int
    resync_done: int
    bad_blocks: int
    healed_blocks: int
    stuck_copies: tuple[str, ...] = ()
    ops: int = 0


class DriveStats:
    """Latest report of each drive."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._figures: dict[int, DriveFigures] = {}

    def report(self, status: pb.DriveStatus) -> None:
        """Take a report over."""
        self._figures[status.drive] = DriveFigures(
            self._monotonic(), status.capacity_bytes, status.used_bytes, status.reserved_bytes,
            status.p99_us, status.resync_bytes_left, status.resync_bytes_done, status.bad_blocks,
            status.healed_blocks, tuple(status.stuck_copies), status.recent_ops,
        )  # fmt: skip

    def clear(self) -> None:
        """Nothing is known."""
        self._figures.clear()

    def get(self, drive: int) -> DriveFigures | None:
        """The latest report, unless it is stale."""
        found = self._figures.get(drive)
        return found if found and self._monotonic() - found.at_s <= STALE_S else None

    def p99_us(self) -> dict[int, int]:
        """Service times of all drives that report."""
        found = {d: self.get(d) for d in self._figures}
        return {d: f.p99_us for d, f in found.items() if f is not None}
