"""Drives that are slow leave: reports make a suspicion, a test of the device makes it sure.

Reports alone do not say why a drive is slow: it may do more than the others. So the drive is tested
beside others before it is dropped, in the time in which the last report is waited for anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final

from drystone_common.logs import get_logger
from drystone_storaged.cluster.health import HealthService
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership_service import Evidence
from drystone_storaged.cluster.records import Drive, DriveState
from drystone_storaged.manager.drivestats import DriveStats
from drystone_storaged.manager.failures import FailureJudge
from drystone_storaged.manager.retest import Tester, kin
from drystone_storaged.manager.slow import REPORTING_MIN, Sample, SlowTracker

log = get_logger(__name__)

TEST_S: Final = 4.0
"""A test that is not over by the next report: the device is not well, if others were done."""

STAYS_S: Final = 60.0  # a slow drive that cannot be missed is asked for again after so long


@dataclass(frozen=True, slots=True)
class WatchDeps:
    """What the watch works with."""

    judge: FailureJudge
    health: HealthService
    tester: Tester
    stats: DriveStats
    monotonic: Callable[[], float]


class SlowWatch:
    """Takes every report of every drive."""

    def __init__(self, deps: WatchDeps) -> None:
        self._deps = deps
        self._tracker = SlowTracker()
        self._sick: dict[int, bool | None] = {}
        """Drives that were slow twice, with what their test found; None = not known yet."""
        self._leaving: set[int] = set()
        self._asked: dict[int, float] = {}
        """When a drive was to be dropped last."""

    def clear(self) -> None:
        """What was heard as the leader says nothing about a later time."""
        self._tracker.clear()
        self._sick.clear()
        self._asked.clear()

    def slow(self) -> frozenset[int]:
        """Drives that are slow now, or out because they were."""
        out = {n for n, health in self._deps.health.known.items() if health.held}
        return self._tracker.slow(self._deps.monotonic()) | out

    def report(self, number: int, state: MapState) -> Coroutine[Any, Any, object] | None:
        """A drive reported, ``stats`` has it; gives what is to be done beside that, if anything."""
        drive, figures = state.drives.get(number), self._deps.stats.get(number)
        if drive is None or figures is None or drive.state is not DriveState.UP:
            self._forget(number)
            return None
        alike = kin(state, drive)
        filled = figures.resync_left > 0
        sample = Sample(figures.at_s, figures.p99_us, figures.ops, judged=not filled)
        self._tracker.report(number, sample, alike)
        if not self._tracker.is_suspect(number):
            self._sick.pop(number, None)
        elif number not in self._sick:
            self._sick[number] = None
            return self._test(state, drive)
        elif self._may_go(number, figures.at_s) and self._tracker.is_due(
            number, alike, self._out(state, drive)
        ):
            evidence = Evidence(self._tracker.why(number, alike), self._deps.monotonic())
            self._asked[number] = figures.at_s
            return self._drop(number, evidence)
        return None

    def _may_go(self, number: int, now_s: float) -> bool:
        asked_s = self._asked.get(number, -STAYS_S)
        waits = number in self._leaving or now_s - asked_s < STAYS_S
        return self._sick.get(number) is True and not waits

    def _forget(self, number: int) -> None:
        self._tracker.forget(number)
        self._sick.pop(number, None)
        self._asked.pop(number, None)

    def _out(self, state: MapState, drive: Drive) -> int:
        """How many of its kind are out because they were slow, or about to be."""
        down = {
            d.id
            for d in state.drives.values()
            if d.state is DriveState.DOWN and d.drive_class == drive.drive_class
        }
        slow = {n for n, health in self._deps.health.known.items() if health.out and n in down}
        return len(slow | self._leaving)

    async def _drop(self, number: int, evidence: Evidence) -> None:
        # Until it is written that it is out the next one must know that it goes.
        self._leaving.add(number)
        try:
            if await self._deps.judge.drop_slow(number, evidence):
                self._forget(number)
        finally:
            self._leaving.discard(number)

    async def _test(self, state: MapState, drive: Drive) -> None:
        try:
            outcome = await self._deps.tester.test(state, drive, TEST_S)
        except BaseException:
            # It is not under test any more, and nothing is known: the next report begins anew.
            self._forget(drive.id)
            raise
        if drive.id not in self._sick:
            return  # it was fast again meanwhile
        # Who cannot be compared with others is not known to be slower than they are.
        told = outcome is not None and outcome.others + 1 >= REPORTING_MIN
        sick = told and outcome is not None and not outcome.passed
        log.info(
            "a slow drive was tested",
            drive=drive.id,
            sick=sick,
            found=outcome.text if outcome else "",
        )
        if sick:
            self._sick[drive.id] = True
        else:
            # The load makes it slow, or everybody is: it is looked at from the beginning.
            self._forget(drive.id)
