"""How long clients may wait, and what is made of what they did: the figures of a run.

Times are judged net of what the host itself stood still. Where that is most of a gap that is too
long, or where the host's disk stood still in it for as long as it is too long, nothing can be said
of the product: such a lap is played again, and a kind of lap that was never judged fails the run.
What the disk did is taken off no figure: the product's own writes may have had a part in it.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.e2e.lib.ticker import Stalls
from tests.e2e.nemesis.timeline import Gap

NOTHING_S: Final = 0.25
"""A pause that no user takes for one: what a loss of managers, etcd or a leader may do."""

QUIET_FACTOR: Final = 1.5
"""On a machine that is slow without any fault, nothing is so much more than its longest request."""

STALLED: Final = 0.5
NO_STALLS: Final = Stalls(())


@dataclass(frozen=True, slots=True)
class Bar:
    """The longest gap of one lap, and the median over the laps of its kind."""

    worst_s: float
    typical_s: float | None = None
    nothing: bool = False

    def allowed_s(self, quiet_s: float) -> float:
        """The longest gap, where the longest one without any fault was ``quiet_s``."""
        return max(self.worst_s, QUIET_FACTOR * quiet_s) if self.nothing else self.worst_s

    def words(self, quiet_s: float) -> str:
        """For the table."""
        if self.nothing:
            return f"0 (≤ {self.allowed_s(quiet_s):.2f} s)"
        typical = "" if self.typical_s is None else f"≤ {self.typical_s:g} s typical, "
        return f"{typical}≤ {self.worst_s:g} s"


DEAD: Final = Bar(1.0)
SILENT: Final = Bar(5.0, 3.0)
NOTHING: Final = Bar(NOTHING_S, nothing=True)
BARS: Final[Mapping[str, Bar]] = {
    "kill": DEAD,
    "stop": SILENT, "long-stop": SILENT, "pause": SILENT, "cut": SILENT, "node": SILENT,
    # Nobody is dropped here, so no client may wait as long as for a drop.
    "one-way": SILENT,
    "leader-and-node": Bar(5.0),
    "flush-die": SILENT, "drive-eio": SILENT, "drive-slow": SILENT,
    "leader-kill": NOTHING, "leader-stop": NOTHING, "etcd-kill": NOTHING, "managers": NOTHING,
}  # fmt: skip


BACK_S: Final[Mapping[str, float]] = {"cut": 30.0, "one-way": 30.0, "loss": 30.0, "slow-net": 30.0}
"""From the healed network to all in sync: connections that stood must not sleep for minutes, as
the kernel lets those whose packets nobody answered."""


@dataclass(frozen=True, slots=True)
class Wait:
    """The longest time that a client wanted to change something and could not."""

    gap_s: float = 0.0
    stalled_s: float = 0.0
    volume: str = ""
    begin: float = 0.0
    disk_s: float = 0.0
    """In it, the disk stood still for everybody."""

    @property
    def net_s(self) -> float:
        """Without the time in which the host stood still."""
        return max(0.0, self.gap_s - self.stalled_s)

    def excused(self, limit_s: float) -> bool:
        """Whether it is longer, and what made it so may have been the host."""
        if self.gap_s > limit_s and self.stalled_s > STALLED * self.gap_s:
            return True
        return limit_s < self.net_s <= limit_s + self.disk_s


def waits_of(
    gaps: Mapping[str, Iterable[Gap]], stalls: Stalls, disk: Stalls = NO_STALLS
) -> list[Wait]:
    """The waits of volumes; ``stalls`` of the host, ``disk``: those of its disk."""
    return [
        Wait(
            gap.seconds, stalls.within(gap.begin, gap.end), name, gap.begin,
            disk.without(stalls).within(gap.begin, gap.end),
        )
        for name, found in gaps.items()
        for gap in found
    ]  # fmt: skip


def worst(waits: Iterable[Wait]) -> Wait:
    """The longest, net of stalls of the host."""
    return max(waits, key=lambda wait: (wait.net_s, wait.gap_s), default=Wait())


@dataclass(frozen=True, slots=True)
class Figure:
    """Something else that was measured in a lap, and the most that it may be."""

    name: str
    value: float
    most: float
    unit: str


@dataclass(slots=True)
class Outcome:
    """One lap. ``problems``: each a sentence; none is a lap that passed.

    ``grave``: those after which nothing more can be learnt from this cluster: what it holds is
    wrong, or it did not come back.
    """

    name: str
    number: int
    problems: list[str] = field(default_factory=list)
    grave: list[str] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    wait: Wait = field(default_factory=Wait)
    blurred: bool = False
    longest_stall_s: float = 0.0
    longest_disk_s: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it counts as passed: one that cannot be judged does not."""
        return not self.problems and not self.grave and not self.blurred

    def must(self, condition: bool, problem: str) -> None:
        """Note a problem where a condition does not hold."""
        if not condition:
            self.problems.append(problem)

    def judge_figure(self, name: str, value: float, most: float, unit: str = "") -> None:
        """Hold something else that was measured against its bar, for the table too."""
        self.figures.append(Figure(name, value, most, unit))
        self.must(
            value <= most, f"{name}: {value:.3g}{_unit(unit)}, allowed are {most:g}{_unit(unit)}"
        )

    def judge_back(self, seconds: float) -> None:
        """Note how long it took from the fault's end until all was in sync and served."""
        self.notes["back_s"] = seconds
        allowed = BACK_S.get(self.name)
        if allowed is not None:
            self.judge_figure("from the end of the fault to all in sync", seconds, allowed, "s")

    def judge_waits(self, waits: Sequence[Wait], quiet_s: float) -> None:
        """Hold all waits against the bar of this kind of lap.

        One that nothing excuses is a problem, whatever there is beside it. Where all that are too
        long are excused the lap is not judged. The median must hold no excused one either.
        """
        self.wait = worst(waits)
        bar = BARS.get(self.name)
        if bar is None:
            return
        allowed = bar.allowed_s(quiet_s)
        for limit in (allowed, *([] if bar.typical_s is None else [bar.typical_s])):
            above = [wait for wait in waits if wait.net_s > limit or wait.excused(limit)]
            bad = [wait for wait in above if not wait.excused(limit)]
            if above:
                self.wait, self.blurred = worst(bad or above), self.blurred or not bad
                break
        wait = self.wait
        self.must(
            self.blurred or wait.net_s <= allowed,
            f"a client of {wait.volume} waited {wait.gap_s:.2f} s, {wait.net_s:.2f} s net of the "
            f"host's stalls, from {wait.begin:.3f} on; allowed are {allowed:.2f} s",
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of lap over a whole run."""

    name: str
    laps: int
    median_s: float
    worst_s: float
    bar: str
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """One figure of a kind of lap over a whole run."""

    lap: str
    name: str
    laps: int
    median: float
    worst: float
    most: float
    unit: str


def measured(outcomes: Iterable[Outcome]) -> list[Measured]:
    """All figures by lap and name, in the order in which they came."""
    kinds: dict[tuple[str, str], list[Figure]] = {}
    for outcome in outcomes:
        for figure in outcome.figures:
            kinds.setdefault((outcome.name, figure.name), []).append(figure)
    return [
        Measured(
            lap, name, len(found), statistics.median(f.value for f in found),
            max(f.value for f in found), found[-1].most, found[-1].unit,
        )
        for (lap, name), found in kinds.items()
    ]  # fmt: skip


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""


def rows(outcomes: Iterable[Outcome], quiet_s: float) -> list[Row]:
    """Sum up by kind, in the order in which they came."""
    kinds: dict[str, list[Outcome]] = {}
    for each in outcomes:
        kinds.setdefault(each.name, []).append(each)
    return [_row(name, found, quiet_s) for name, found in kinds.items()]


def _row(name: str, found: Sequence[Outcome], quiet_s: float) -> Row:
    bar = BARS.get(name)
    judged = [each.wait.net_s for each in found if not each.blurred]
    problems = [problem for each in found for problem in (*each.grave, *each.problems)]
    if not judged:
        problems.append("never judged: in each lap the host or its disk stood still")
    median = statistics.median(judged) if judged else 0.0
    if bar is not None and bar.typical_s is not None and median > bar.typical_s:
        problems.append(f"waits of {median:.2f} s are typical, allowed are {bar.typical_s:g} s")
    return Row(
        name, len(judged), median, max(judged, default=0.0),
        "" if bar is None else bar.words(quiet_s), tuple(problems),
    )  # fmt: skip
