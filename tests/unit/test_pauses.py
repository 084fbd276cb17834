"""Whoever lost its manager asks all of them in a row, and only then waits, longer each time."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from drystone_storaged.agent.pauses import MAX_S, MIN_S, VOTER_MAX_S, Pauses, spread

SPREAD = 1.5


@given(managers=st.integers(1, 7), rounds=st.integers(1, 12))
def test_between_managers_of_one_round_nobody_waits(managers, rounds):
    pauses = Pauses(managers)
    for _ in range(rounds):
        within = [pauses.next_s() for _ in range(managers)][:-1]
        assert all(pause <= MIN_S * SPREAD for pause in within)


@given(managers=st.integers(1, 7), longest=st.sampled_from([VOTER_MAX_S, MAX_S]))
def test_rounds_come_less_often_up_to_the_longest_pause(managers, longest):
    pauses = Pauses(managers, longest)
    ends = [[pauses.next_s() for _ in range(managers)][-1] for _ in range(20)]
    assert all(later <= 2 * SPREAD / 0.5 * earlier for earlier, later in pairwise(ends))
    assert max(ends) <= longest * SPREAD
    assert min(ends[10:]) >= longest * 0.5


def test_the_manager_that_leads_is_found_within_one_pause_and_not_one_for_each_manager():
    pauses = Pauses(3, VOTER_MAX_S)
    for _ in range(60):
        pauses.next_s()
    # Elected just after it was asked: the rest of this round, and the next one up to it.
    worst = sum(pauses.next_s() for _ in range(3))
    assert worst <= (VOTER_MAX_S + 2 * MIN_S) * SPREAD


def test_after_an_answer_it_begins_anew():
    pauses = Pauses(1)
    for _ in range(10):
        pauses.next_s()
    pauses.reset()
    assert pauses.next_s() <= MIN_S * SPREAD
    assert 0.5 <= spread(1.0) <= SPREAD
