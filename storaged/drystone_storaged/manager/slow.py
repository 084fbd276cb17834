"""Which drives are slow: each by the drives of its own kind, over several reports. No clock here.

Slow means ten times slower than the others do at the same time. Where many are slow it is the load,
the host or the network, and taking drives away would make it worse.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SLOW_FACTOR: Final = 10
PASS_FACTOR: Final = 3
MEDIAN_FLOOR_US: Final = 200
"""What a good device takes; below it factors compare noise."""

SLOW_FOR_S: Final = 10.0
JITTER_S: Final = 0.5
"""A server reports at once when a drive becomes slow, and then each 5 s by its own clock: the third
report may be here a little early. Extra ones in between make the time no shorter."""

SUSPECT_S: Final = 4.5
"""Two reports of that rhythm: time to test the device before the third one comes."""

GAP_S: Final = 12.0
"""Two reports further apart than this have one missing between them: nobody knows of then."""

REPORTS_MIN: Final = 3
"""Slow reports before a drive leaves: one that was lost on its way says nothing."""
REPORTING_MIN: Final = 3  # the drive among them: of two nobody can say which is the odd one
OPS_MIN: Final = 5  # in a report's 5 s: fewer say nothing, and a slower device than that hangs
SHARE: Final = 10
"""Who did less than a tenth of a drive's work is no measure for it: the load is not the same."""

ALONE_US: Final = 100_000
"""What a test may take where nothing can be compared: a tenth of what counts as a hang."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One report: operations of the last 5 s, and how long the slowest but one in a hundred took.

    A drive that has just become slow by any measure tells the times since then alone, which are of
    five operations and half a second at least: what was fast before would hide them for seconds.

    ``judged``: false for a drive that is being filled, whose load is its own.
    """

    at_s: float
    p99_us: int
    ops: int
    judged: bool = True


@dataclass(slots=True)
class _Run:
    """Reports in a row that were slow."""

    since_s: float
    last_s: float
    reports: int = 0


def bar_us(others: list[int], factor: int) -> float:
    """The time above which a drive is so many times slower than others."""
    return factor * max(MEDIAN_FLOOR_US, statistics.median(others))


def passes(p99_us: int, errors: int, others: list[int]) -> bool:
    """Whether a test that a drive did is as good as what the others do in theirs."""
    bar = bar_us(others, PASS_FACTOR) if others else ALONE_US
    return not errors and p99_us < bar


class SlowTracker:
    """Takes every report; says who was slow for long enough that it should leave."""

    def __init__(self) -> None:
        self._latest: dict[int, Sample] = {}
        self._runs: dict[int, _Run] = {}

    def clear(self) -> None:
        """Nothing is known."""
        self._latest.clear()
        self._runs.clear()

    def forget(self, drive: int) -> None:
        """What it did before says nothing about it any more."""
        self._latest.pop(drive, None)
        self._runs.pop(drive, None)

    def report(self, drive: int, sample: Sample, kin: frozenset[int]) -> None:
        """Take a report; ``kin`` are the drives that it is compared with."""
        self._latest[drive] = sample
        if not self._is_slow(drive, kin, sample.at_s):
            self._runs.pop(drive, None)
            return
        run = self._runs.get(drive)
        if run is None or sample.at_s - run.last_s > GAP_S:
            run = self._runs[drive] = _Run(sample.at_s, sample.at_s)
        run.last_s = sample.at_s
        run.reports += 1

    def is_suspect(self, drive: int) -> bool:
        """Whether it was slow more than once."""
        run = self._runs.get(drive)
        return run is not None and run.last_s - run.since_s >= SUSPECT_S

    def is_due(self, drive: int, kin: frozenset[int], out: int) -> bool:
        """Whether it should leave; ``out`` of its kind left already because they were slow.

        Never where more than a third of the kind would be slow or out.
        """
        run = self._runs.get(drive)
        if run is None or run.reports < REPORTS_MIN:
            return False
        if run.last_s - run.since_s < SLOW_FOR_S - JITTER_S:
            return False
        fresh = {*self._fresh(kin, run.last_s), drive}
        slow = {d for d in fresh if self._is_slow(d, kin | {drive}, run.last_s)}
        return 3 * (len(slow | {drive}) + out) <= len(fresh) + out

    def slow(self, now_s: float) -> frozenset[int]:
        """Drives whose newest report was slow, however long."""
        return frozenset(d for d, run in self._runs.items() if now_s - run.last_s <= GAP_S)

    def why(self, drive: int, kin: frozenset[int]) -> str:
        """What is said of a drive that leaves."""
        own = self._latest[drive]
        others = self._measures(drive, kin, own.at_s)
        return (
            f"slow: {own.p99_us / 1000:.1f} ms, the others "
            f"{statistics.median(others or [0]) / 1000:.1f} ms"
        )

    def _fresh(self, kin: frozenset[int], now_s: float) -> Mapping[int, Sample]:
        known = {d: self._latest[d] for d in kin if d in self._latest}
        return {d: s for d, s in known.items() if now_s - s.at_s <= GAP_S and s.ops >= OPS_MIN}

    def _measures(self, drive: int, kin: frozenset[int], now_s: float) -> list[int]:
        own = self._latest[drive]
        others = {d: s for d, s in self._fresh(kin, now_s).items() if d != drive}
        return [s.p99_us for s in others.values() if s.ops * SHARE >= own.ops]

    def _is_slow(self, drive: int, kin: frozenset[int], now_s: float) -> bool:
        own = self._latest[drive]
        others = self._measures(drive, kin, now_s)
        if not own.judged or own.ops < OPS_MIN or len(others) + 1 < REPORTING_MIN:
            return False
        return own.p99_us > bar_us(others, SLOW_FACTOR)
