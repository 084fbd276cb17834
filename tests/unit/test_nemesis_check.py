"""The checker of the nemesis: it finds what is wrong, and nothing where all is well."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.e2e.nemesis.check import check, check_block
from tests.e2e.nemesis.history import DAMAGED, ZERO, History, Op, Verb, first_value
from tests.e2e.nemesis.search import TooWideError, check_search
from tests.e2e.nemesis.zones import check_zones
from tests.unit.nemesis_histories import (
    any_histories,
    fenced_histories,
    good_history,
    possible,
    read,
    trim,
    write,
)

SEEDS = st.integers(0, 1 << 32)
BASE = first_value(ZERO)


@given(any_histories())
def test_zones_judge_small_histories_as_trying_every_order_does(ops):
    assert (check_zones(ops) is None) == possible(ops)


@given(any_histories(trims=True))
def test_the_search_judges_small_histories_with_trims_as_trying_every_order_does(ops):
    assert (check_search(ops) is None) == possible(ops)


@given(any_histories())
def test_zones_and_search_agree_where_both_may_judge(ops):
    assert (check_zones(ops) is None) == (check_search(ops) is None)


@given(SEEDS, st.integers(0, 60), st.booleans())
def test_what_a_register_did_is_never_called_wrong(seed, count, trims):
    ops = good_history(seed, count, trims=trims)
    assert check_block(ops) is None
    random.Random(seed).shuffle(ops)
    assert check_block(ops) is None


@given(any_histories(trims=True))
def test_an_offence_is_a_contradiction_of_its_own(ops):
    found = check_block(ops)
    if found is None:
        return
    # A read of a value that nobody wrote stays one when the change is left away, and so on:
    # what is named must be impossible without all the rest.
    assert not possible([BASE, *(op for op in found.ops if op != BASE)])


@given(fenced_histories(trims=True), st.integers(0, 9))
def test_changes_after_their_fence_are_counted_as_trying_every_order_does(ops, fence):
    fences = {1: float(fence)}
    if not possible(ops):
        return
    alone = [[o._replace(attach=3) if o is not op else o for o in ops] for op in ops]
    late = [
        op
        for op, history_of_one in zip(ops, alone, strict=True)
        if op.attach == 1
        and op.verb != Verb.READ
        and (op.unknown or op.start <= fence)
        and not possible(history_of_one, fences)
    ]
    found = check(History({0: ops}, fences)).fenced_late
    assert found == len(late) or (not late and found == 1 and not possible(ops, fences))


@given(fenced_histories(), st.integers(0, 9), st.integers(0, 9))
def test_a_block_has_late_changes_when_no_order_obeys_all_fences(ops, first, second):
    fences = {1: float(first), 2: float(second)}
    verdict = check(History({0: ops}, fences))
    if possible(ops) and not verdict.fenced_accepted:
        assert (verdict.fenced_late > 0) == (not possible(ops, fences))


def test_a_late_fenced_write_is_told_from_one_that_was_only_seen_late():
    before = [BASE, write(1, 1, attach=1), read(1, 20, 21, attach=2)]
    seen_late = check(History({0: before}, {1: 10.0}))
    assert (seen_late.wrong, seen_late.fenced_late) == (0, 0)
    after = [*before, read(ZERO, 12, 13, attach=2)]
    late = check(History({0: after}, {1: 10.0}))
    assert (late.wrong, late.fenced_late) == (0, 1)
    assert "after the fence was proven" in late.words("v")


def test_a_write_that_was_accepted_after_its_fence_is_counted():
    ops = [BASE, write(1, 11, 12, attach=1)]
    verdict = check(History({0: ops}, {1: 10.0}))
    assert verdict.fenced_accepted == 1
    assert not verdict.clean


def test_a_write_that_took_effect_after_its_fence_is_late_though_it_was_begun_before():
    ops = [BASE, write(1, 9, 20, attach=1), read(ZERO, 12, 13, attach=2)]
    verdict = check(History({0: ops}, {1: 10.0}))
    assert (verdict.fenced_accepted, verdict.fenced_late) == (0, 1)
    only_answered_late = check(History({0: ops[:2]}, {1: 10.0}))
    assert only_answered_late.clean


def middle(seed: int, count: int) -> tuple[list[Op], int, float]:
    """A good beginning, what the block holds after it, and a moment when all is quiet."""
    ops = good_history(seed, count)
    return ops, ops[-1].value, ops[-1].end + 1


def lost_write(at: float, old: int) -> list[Op]:
    return [write(900, at, at + 1), read(old, at + 2, at + 3)]


def stale_read(at: float, old: int) -> list[Op]:
    return [write(900, at, at + 1), read(900, at + 2, at + 3), read(old, at + 4, at + 5),
            read(900, at + 6, at + 7)]  # fmt: skip


def resurrected(at: float, _: int) -> list[Op]:
    return [write(900, at, at + 1), write(901, at + 2, at + 3), read(901, at + 4, at + 5),
            read(900, at + 6, at + 7), read(900, at + 8, at + 9)]  # fmt: skip


def applied_twice(at: float, _: int) -> list[Op]:
    return [write(900, at), read(900, at + 1, at + 2), write(901, at + 3, at + 4),
            read(901, at + 5, at + 6), read(900, at + 7, at + 8)]  # fmt: skip


def phantom(at: float, _: int) -> list[Op]:
    return [read(900, at, at + 1), write(900, at + 2, at + 3)]


def damaged(at: float, _: int) -> list[Op]:
    return [read(DAMAGED, at, at + 1)]


@pytest.mark.parametrize(
    "fault", [lost_write, stale_read, resurrected, applied_twice, phantom, damaged]
)
@settings(max_examples=settings().max_examples // 5)
@given(seed=SEEDS, count=st.integers(0, 40))
def test_a_planted_fault_is_found_in_any_load_and_told_in_few_words(fault, seed, count):
    ops, value, at = middle(seed, count)
    planted = fault(at, value)
    tail = good_history(seed + 1, count, begin=at + 20, base=planted[-1].value, first=1000)
    history = ops + planted + tail[1:]
    random.Random(seed).shuffle(history)
    for found in (check_zones(history), check_search(history)):
        assert found is not None
        assert len(found.ops) <= 6


@given(seed=SEEDS, blocks=st.integers(2, 16))
def test_a_write_of_many_blocks_that_settles_in_two_orders_is_found(seed, blocks):
    # Two acknowledged writes of all the blocks, one after the other; in one block they swapped.
    torn = random.Random(seed).randrange(blocks)
    history = History()
    for block in range(blocks):
        seen = 1 if block == torn else 2
        for op in (BASE, write(1, 0, 1), write(2, 2, 3), read(seen, 4, 5)):
            history.add(block, op)
    verdict = check(history)
    assert verdict.wrong == 1
    assert verdict.offences[0][0] == torn


def test_an_unknown_write_may_still_come_after_any_time():
    ops = [BASE, write(1, 0), write(2, 1, 2), read(2, 3, 4), read(1, 1_000_000, 1_000_001)]
    assert check_block(ops) is None
    assert check_block([*ops, read(2, 1_000_002, 1_000_003)]) is not None


def test_an_unknown_trim_explains_one_return_of_zeros_and_not_two():
    once = [BASE, write(1, 0, 1), trim(2), read(ZERO, 3, 4), write(2, 5, 6), read(2, 7, 8)]
    assert check_block(once) is None
    assert check_block([*once, read(ZERO, 9, 10)]) is not None
    assert check_block([*once, read(ZERO, 9, 10), trim(8)]) is None


def test_an_offence_is_told_with_block_clients_numbers_times_and_attachment():
    ops = [BASE, Op(Verb.WRITE, 1.0, 1.5, (7 << 40) + 12, 7, 3, 5), read(ZERO, 2.0, 2.25)]
    verdict = check(History({42: ops}))
    text = verdict.words("v1", origin=1.0)
    assert "volume v1, block 42: an acknowledged change is lost" in text
    assert "+0.000000 s to +0.500000 s: client 7 (attachment 3, generation 5) wrote" in text
    assert "write 12 of client 7" in text
    assert "read zeros" in text


def test_too_many_open_requests_on_a_trimmed_block_are_refused_with_advice():
    ops = [BASE, trim(0, 1), *(write(n, 0, 100 + n) for n in range(1, 24))]
    with pytest.raises(TooWideError, match="fewer connections"):
        check_block([*ops, read(99, 50, 60)])
