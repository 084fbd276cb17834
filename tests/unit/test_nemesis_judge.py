"""Waits are judged net of the host's stalls, and what cannot be judged never counts as passed."""

from __future__ import annotations

import pytest

from tests.e2e.lib.ticker import Stalls
from tests.e2e.nemesis.judge import BACK_S, BARS, Outcome, Wait, rows, waits_of, worst
from tests.e2e.nemesis.special import LAPS, NEEDED, SHORT
from tests.e2e.nemesis.timeline import Gap

QUIET_S = 0.05


def outcome(name, *waits):
    found = Outcome(name, 1)
    found.judge_waits(waits, QUIET_S)
    return found


def test_the_longest_wait_is_the_longest_without_the_hosts_stalls():
    stalls = Stalls(((10.0, 12.0),))
    gaps = {"a": [Gap(10.0, 12.5, 1)], "b": [Gap(20.0, 21.0, 1)], "c": []}
    wait = worst(waits_of(gaps, stalls))
    assert wait.volume == "b"
    assert wait.net_s == pytest.approx(1.0)
    assert worst(waits_of({"a": []}, stalls)) == Wait()


@pytest.mark.parametrize(
    ("name", "wait_s", "good"),
    [
        ("kill", 1.0, True), ("kill", 1.01, False),
        ("stop", 5.0, True), ("stop", 5.01, False), ("cut", 5.01, False),
        ("leader-kill", 0.25, True), ("leader-kill", 0.26, False), ("managers", 0.26, False),
        ("all", 60.0, True),
    ],
)  # fmt: skip
def test_a_wait_is_held_against_the_bar_of_its_kind(name, wait_s, good):
    assert outcome(name, Wait(wait_s)).passed is good


def test_where_nothing_may_happen_a_slow_machine_is_measured_against_itself():
    found = Outcome("etcd-kill", 1)
    found.judge_waits([Wait(0.5)], quiet_s=0.4)
    assert found.passed
    found.judge_waits([Wait(0.7)], quiet_s=0.4)
    assert not found.passed


def test_a_wait_that_is_mostly_the_hosts_is_not_judged_and_not_passed():
    blurred = outcome("kill", Wait(3.0, 2.5))
    assert blurred.blurred
    assert not blurred.problems
    assert not blurred.passed
    assert not outcome("kill", Wait(0.9, 0.8)).blurred, "a wait within the bar is good as it is"
    assert outcome("kill", Wait(3.0, 1.0)).problems, "a stall does not excuse all the rest"
    (row,) = rows([blurred], QUIET_S)
    assert row.laps == 0
    assert row.problems


def test_a_wait_that_is_too_long_by_what_the_disk_stood_still_is_not_judged():
    blurred = outcome("kill", Wait(1.5, disk_s=0.6))
    assert blurred.blurred
    assert not blurred.problems
    assert not blurred.passed
    assert outcome("kill", Wait(1.7, disk_s=0.6)).problems, "it does not excuse the rest"
    assert outcome("kill", Wait(0.9, disk_s=0.6)).passed, "good as it is; nothing is taken off"
    assert outcome("cut", Wait(3.4, disk_s=0.5)).blurred, "nor counts it as typical"
    assert outcome("cut", Wait(3.4)).passed
    assert outcome("cut", Wait(4.9, disk_s=0.5)).passed
    (row,) = rows([blurred], QUIET_S)
    assert row.problems


def test_a_disk_that_stands_still_is_found_in_the_gap_only():
    gaps = {"a": [Gap(10.0, 12.5, 1)]}
    disk = Stalls(((9.0, 10.5), (12.0, 14.0)))
    (wait,) = waits_of(gaps, Stalls(()), disk)
    assert wait.disk_s == pytest.approx(1.0)
    assert wait.net_s == pytest.approx(2.5)
    # The disk's process did not run either while the host stood still: that counts once.
    (wait,) = waits_of(gaps, Stalls(((10.0, 10.5),)), disk)
    assert wait.net_s == pytest.approx(2.0)
    assert wait.disk_s == pytest.approx(0.5)


def test_an_excused_wait_hides_no_other_one():
    worse, bad = Wait(1.6, disk_s=0.7), Wait(1.4, volume="b")
    found = outcome("kill", worse, bad, Wait(0.2))
    assert not found.blurred
    assert found.problems
    assert found.wait is bad
    assert outcome("kill", worse, Wait(0.9)).blurred
    typical = outcome("cut", Wait(3.6, disk_s=0.7), Wait(3.4))
    assert not typical.blurred
    assert typical.wait.net_s == 3.4, "counts for the median"


def test_a_lap_that_was_judged_at_last_is_enough():
    (row,) = rows([outcome("kill", Wait(3.0, 2.5)), outcome("kill", Wait(0.4))], QUIET_S)
    assert (row.laps, row.worst_s, row.problems) == (1, 0.4, ())


def test_what_is_typical_is_the_median_over_the_run():
    good = [outcome("stop", Wait(seconds)) for seconds in (1.0, 2.9, 4.9)]
    assert rows(good, QUIET_S)[0].problems == ()
    bad = [outcome("stop", Wait(seconds)) for seconds in (1.0, 3.1, 3.2)]
    (row,) = rows(bad, QUIET_S)
    assert len(row.problems) == 1
    assert row.median_s == 3.1


def test_a_healed_network_is_back_within_half_a_minute():
    for seconds, good in ((30.0, True), (31.0, False)):
        found = Outcome("cut", 1)
        found.judge_back(seconds)
        assert found.passed is good
        assert found.notes["back_s"] == seconds
    slow = Outcome("all", 1)
    slow.judge_back(90.0)
    assert slow.passed


def test_bars_and_lists_name_laps_that_there_are():
    assert set(BARS) | set(BACK_S) <= set(LAPS)
    assert set(SHORT) | set(NEEDED) <= set(LAPS)
