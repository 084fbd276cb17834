"""When a drive counts as slow: by the others of its kind, and for how long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drystone_storaged.manager.slow import MEDIAN_FLOOR_US, Sample, SlowTracker, passes

KIN = frozenset(range(1, 7))


def tell(tracker: SlowTracker, at_s: float, times: dict[int, int], kin=KIN, **fields) -> None:
    """One report of each drive, each a little after the one before."""
    for n, (drive, p99_us) in enumerate(sorted(times.items())):
        tracker.report(drive, Sample(at_s + n / 100, p99_us, fields.get("ops", 100)), kin)


def play(rounds: list[dict[int, int]], kin=KIN, period_s: float = 5.0, **fields) -> SlowTracker:
    tracker = SlowTracker()
    for number, times in enumerate(rounds):
        tell(tracker, number * period_s, times, kin, **fields)
    return tracker


def one_slow(us: int = 50_000) -> dict[int, int]:
    return {1: us} | dict.fromkeys(range(2, 7), 1_000)


def due(tracker: SlowTracker, kin=KIN, out: int = 0) -> set[int]:
    return {d for d in kin if tracker.is_due(d, kin, out)}


def test_a_drive_that_is_slow_in_every_report_for_ten_seconds_is_to_leave():
    # The first report only has others to compare with where they came before it.
    assert due(play([one_slow()] * 3)) == set()
    assert due(play([one_slow()] * 4)) == {1}


def test_one_report_in_between_that_is_well_begins_the_time_anew():
    well = one_slow(1_000)
    assert due(play([well, one_slow(), one_slow(), well, one_slow(), one_slow()])) == set()


def test_a_report_that_is_missing_begins_the_time_anew():
    assert due(play([one_slow()] * 4, period_s=13.0)) == set()


def test_ten_times_is_not_slow_and_a_little_more_is():
    assert due(play([one_slow(10_000)] * 4)) == set()
    assert due(play([one_slow(10_001)] * 4)) == {1}


def test_what_is_faster_than_ten_times_a_good_device_is_never_slow():
    fast = {1: 10 * MEDIAN_FLOOR_US} | dict.fromkeys(range(2, 7), 1)
    assert due(play([fast] * 6)) == set()


def test_all_drives_slow_together_drops_nobody():
    assert due(play([dict.fromkeys(KIN, 900_000)] * 6)) == set()
    quiet = dict.fromkeys(KIN, 1_000)
    assert due(play([quiet] * 2 + [dict.fromkeys(KIN, 900_000)] * 6)) == set()


def test_never_when_more_than_a_third_are_slow_or_out_because_of_it():
    two = one_slow() | {2: 50_000}
    three = two | {3: 50_000}
    assert due(play([two] * 4)) == {1, 2}
    assert due(play([three] * 4)) == set()
    # Six report and one is out already: a third of seven are two.
    assert due(play([one_slow()] * 4), out=1) == {1}
    assert due(play([two] * 4), out=1) == set()


def test_two_drives_cannot_say_which_of_them_is_the_slow_one():
    pair = frozenset([1, 2])
    assert due(play([{1: 50_000, 2: 500}] * 6, pair), pair) == set()
    three = frozenset([1, 2, 3])
    assert due(play([{1: 50_000, 2: 500, 3: 500}] * 6, three), three) == {1}


def test_a_drive_with_hardly_anything_to_do_is_not_judged_and_judges_nobody():
    assert due(play([one_slow()] * 6, ops=4)) == set()
    tracker = SlowTracker()
    for round_ in range(6):
        # Ten times the work of the others: the load is not the same.
        tracker.report(1, Sample(round_ * 5.0, 50_000, 10_000), KIN)
        for drive in range(2, 7):
            tracker.report(drive, Sample(round_ * 5.0, 500, 900), KIN)
    assert due(tracker) == set()


def test_a_drive_that_is_being_filled_is_not_judged():
    tracker = SlowTracker()
    for round_ in range(6):
        tell(tracker, round_ * 5.0, {d: 500 for d in KIN if d != 1})
        tracker.report(1, Sample(round_ * 5.0 + 1, 50_000, 100, judged=False), KIN)
    assert due(tracker) == set()


def test_two_slow_reports_are_a_suspicion():
    assert not play([one_slow()] * 2).is_suspect(1)
    suspect = play([one_slow()] * 3)
    assert suspect.is_suspect(1)
    assert not suspect.is_suspect(2)


def test_reports_that_lie_closer_make_nobody_leave_or_suspect_sooner():
    tracker = SlowTracker()
    tell(tracker, -1.0, one_slow(1_000))
    for second in range(11):
        assert not due(tracker)
        tell(tracker, float(second), one_slow())
        assert tracker.is_suspect(1) == (second >= 5)
    assert due(tracker) == {1}


def test_a_report_that_was_lost_says_nothing():
    # Reports of the first round have nothing to be compared with: two of three count here.
    assert due(play([one_slow(), one_slow(), {}, one_slow()])) == set()
    assert due(play([one_slow(), one_slow(), {}, one_slow(), one_slow()])) == {1}


def test_a_test_is_passed_within_three_times_the_others_and_without_an_error():
    assert passes(2_999, 0, [1_000, 900, 5_000])
    assert not passes(3_000, 0, [1_000, 900, 5_000])
    assert not passes(10, 1, [1_000, 900, 5_000])
    assert passes(599, 0, [20, 20, 20])
    assert not passes(600, 0, [20, 20, 20])
    assert passes(99_999, 0, [])
    assert not passes(100_000, 0, [])


reports = st.lists(
    st.dictionaries(st.sampled_from(sorted(KIN)), st.integers(0, 2_000_000), min_size=0),
    max_size=12,
)


@given(reports, st.integers(0, 4))
def test_whatever_is_reported_at_most_a_third_leave_and_only_those_slow_at_the_end(rounds, out):
    tracker = play(rounds)
    found = due(tracker, out=out)
    assert 3 * (len(found) + out) <= len(KIN) + out or not found
    for drive in found:
        last = [(n, r[drive]) for n, r in enumerate(rounds) if drive in r][-3:]
        assert len(last) == 3
        assert all(us > 10 * MEDIAN_FLOOR_US for _, us in last)


@given(st.integers(1, 2_000_000), st.integers(0, 9), st.integers(3, 12))
def test_drives_that_are_equally_slow_are_all_kept(us, spread, rounds):
    # Up to ten times apart in any order.
    times = {drive: us + us * spread * (drive % 2) // 2 for drive in KIN}
    assert due(play([times] * rounds)) == set()
