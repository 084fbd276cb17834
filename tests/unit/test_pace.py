"""What others can cause as often as they like is said at once, and then once a minute."""

from __future__ import annotations

import pytest

from drystone_common.pace import AGAIN_S, KEYS_MAX, Pace


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def pace(clock):
    return Pace(clock)


def test_the_first_is_told_at_once_and_the_rest_once_a_minute(pace, clock):
    assert pace.due("a", 0) == 0
    assert pace.due("a", 1) == 1
    assert [pace.due("a", total) for total in range(2, 500)] == [0] * 498
    clock.now += AGAIN_S
    assert pace.due("a", 500) == 499
    clock.now += AGAIN_S
    assert pace.due("a", 500) == 0, "nothing happened since"


def test_each_kind_has_a_pace_of_its_own(pace):
    assert (pace.due("a", 1), pace.due("b", 7), pace.due("a", 2)) == (1, 7, 0)


def test_a_count_that_begins_anew_is_told_of_from_its_beginning(pace, clock):
    assert pace.due("a", 50) == 50
    clock.now += AGAIN_S
    assert pace.due("a", 3) == 3


def test_kinds_without_end_take_no_memory_without_end(pace):
    assert sum(pace.due(number, 1) for number in range(2 * KEYS_MAX)) == KEYS_MAX
