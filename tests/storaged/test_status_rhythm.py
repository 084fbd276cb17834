"""When a server tells its figures: by a clock that the tests turn."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from drystone_storaged.manager.slow import JITTER_S, SLOW_FOR_S, SUSPECT_S, Sample, SlowTracker
from drystone_storaged.server.rhythm import Rhythm

PERIOD_S, APART_S = 5.0, 1.0
KIN = frozenset([1, 2, 3])


def statuses(
    until_s: float, slow: Iterable[float] = (), hurry: Iterable[float] = ()
) -> list[float]:
    """When a reporter tells, to which these things happen at these times."""
    rhythm, now_s, told = Rhythm(PERIOD_S, APART_S), 0.0, []
    happens = sorted([(at, True) for at in slow] + [(at, False) for at in hurry])
    while now_s < until_s:
        due = [became for at, became in happens if at <= now_s]
        happens = happens[len(due) :]
        rhythm.begins(now_s, slow=any(due))
        told.append(now_s)
        woken_s = now_s + rhythm.left_s(now_s)
        if happens:
            woken_s = min(woken_s, max(now_s, happens[0][0]))
        now_s = woken_s + rhythm.rest_s(woken_s)
    return told


def test_where_nothing_happens_there_is_one_each_period():
    assert statuses(20) == [0, 5, 10, 15]


def test_a_drive_that_becomes_slow_right_after_a_status_is_told_within_a_second():
    assert statuses(22, slow=[5.1]) == [0, 5, 6, 10, 11, 15, 16, 20]
    assert statuses(22, slow=[7.5]) == [0, 5, 7.5, 10, 12.5, 15, 17.5, 20]


def test_what_hurries_in_between_does_not_move_the_rhythm():
    # Else the third report of a slow drive could come almost a period late.
    assert statuses(18, slow=[7.5], hurry=[9, 16.9]) == [0, 5, 7.5, 9, 10, 12.5, 15, 16.9, 17.9]


def test_a_second_drive_that_becomes_slow_does_not_delay_the_first_ones_reports():
    assert statuses(16, slow=[0, 4.4]) == [0, 4.4, 5.4, 9.4, 10.4, 14.4, 15.4]


times = st.lists(st.floats(0, 60), max_size=200)


@given(times, times)
def test_whatever_happens_two_are_a_second_apart_and_no_period_passes_without_one(slow, hurry):
    told = statuses(60, slow, hurry)
    gaps = [b - a for a, b in pairwise(told)]
    assert all(APART_S - 1e-9 <= gap <= PERIOD_S + 1e-9 for gap in gaps)
    for at in slow:
        assert any(at <= t <= at + APART_S + 1e-9 for t in told) or at + APART_S >= 60


@given(st.floats(0, 30), times, times)
def test_a_slow_drive_is_judged_within_12_s_after_it_became_that_and_not_before_10(
    slow_s, others, hurry
):
    tracker = SlowTracker()
    first: list[float] = []
    suspect: list[float] = []
    due: list[float] = []
    for at in statuses(60, [slow_s, *others], hurry):
        for drive in (2, 3):
            tracker.report(drive, Sample(at, 1_000, 100), KIN)
        tracker.report(1, Sample(at, 50_000 if at >= slow_s else 1_000, 50), KIN)
        first += [at] * (at >= slow_s)
        suspect += [at] * tracker.is_suspect(1)
        due += [at] * tracker.is_due(1, KIN, 0)
    assert first[0] <= slow_s + APART_S + 1e-9
    assert due[0] - first[0] >= SLOW_FOR_S - JITTER_S
    # The test of the device has its time in between.
    assert suspect[0] - first[0] >= SUSPECT_S
    assert due[0] - suspect[0] >= PERIOD_S - APART_S - 1e-9
    assert due[0] <= slow_s + SLOW_FOR_S + 2 * APART_S + 1e-9
