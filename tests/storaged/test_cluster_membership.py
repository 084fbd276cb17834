from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drystone_storaged.cluster import membership
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.pgmap import Joiner, OutSince, PgRecord

DRIVES = st.integers(1, 6)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["drop", "blank", "join", "promote", "stale", "drop2"]), DRIVES, DRIVES
    ),
    max_size=60,
)


def test_a_dropped_drive_remembers_the_epoch_that_ended():
    record = PgRecord(5, (1, 2, 3), target=(1, 2, 3))
    new = membership.drop(record, 2, 99)
    assert new == PgRecord(6, (1, 3), out=(OutSince(2, 5, 99),), target=(1, 2, 3))


def test_the_last_in_sync_drive_is_never_dropped():
    assert membership.drop(PgRecord(5, (1,)), 1, 0) is None


def test_a_dropped_joiner_keeps_the_epoch_it_came_with():
    record = PgRecord(9, (1,), (Joiner(2, 8, 5),), target=(1, 2))
    new = membership.drop(record, 2, 7)
    assert new is not None
    assert new.out == (OutSince(2, 5, 7),)


def test_a_blank_drop_starts_from_nothing():
    new = membership.drop(PgRecord(5, (1, 2)), 2, 0, blank=True)
    assert new is not None
    assert new.out == (OutSince(2, 0, 0),)


def test_a_join_takes_e0_from_the_record_of_the_drop():
    record = PgRecord(6, (1, 3), out=(OutSince(2, 5, 99),), target=(1, 2, 3))
    new = membership.join(record, 2)
    assert new == PgRecord(7, (1, 3), (Joiner(2, 7, 5),), target=(1, 2, 3))


def test_a_renewal_changes_nothing_but_the_epoch_and_only_the_one_that_was_promised_for():
    record = PgRecord(7, (1, 2), (Joiner(3, 6, 4),), target=(1, 2, 3))
    new = membership.renew(record, 2, 7)
    assert new == PgRecord(8, (1, 2), (Joiner(3, 6, 4),), target=(1, 2, 3))
    assert membership.renew(new, 2, 7) is None
    assert membership.renew(record, 3, 7) is None, "a joiner promises nothing"


def test_a_drive_that_is_out_already_returns_as_blank_when_it_says_that_its_content_is_void():
    ref = PgRef(1, 0)
    out = (OutSince(2, 4, 7), OutSince(3, 3, 7))
    record = PgRecord(5, (1,), (), out)
    changed, kept = membership.plan_drop({ref: record}, [2], 9, blank=True)
    assert kept == ()
    assert changed[ref] == PgRecord(5, (1,), (), (OutSince(2, 0, 7), OutSince(3, 3, 7)))
    joined = membership.join(changed[ref], 2)
    assert joined is not None
    assert joined.joining == (Joiner(2, 6, 0),)
    assert membership.plan_drop(changed, [2], 9, blank=True) == ({}, ())
    assert membership.plan_drop({ref: record}, [2], 9) == ({}, ())


def test_a_drive_nobody_remembers_joins_as_blank():
    new = membership.join(PgRecord(6, (1,)), 4)
    assert new is not None
    assert new.joining == (Joiner(4, 7, 0),)


def test_a_promotion_needs_the_epoch_in_which_the_copy_completed():
    record = PgRecord(7, (1, 3), (Joiner(2, 7, 5),), target=(1, 2, 3))
    assert membership.promote(record, 2, 6) is None
    assert membership.promote(record, 2, 7) == PgRecord(8, (1, 2, 3), target=(1, 2, 3))


def test_drives_that_leave_together_make_one_epoch():
    ref = PgRef(1, 0)
    changed, kept = membership.plan_drop({ref: PgRecord(5, (1, 2, 3))}, [1, 2], 9)
    assert changed[ref] == PgRecord(6, (3,), out=(OutSince(1, 5, 9), OutSince(2, 5, 9)))
    assert kept == ()


def test_when_all_are_to_leave_one_stays():
    ref = PgRef(1, 0)
    changed, kept = membership.plan_drop({ref: PgRecord(5, (1, 2))}, [1, 2], 9)
    assert changed[ref].insync == (2,)
    assert kept == (ref,)


def test_mark_lost_leaves_the_others_blank():
    record = PgRecord(9, (1,), out=(OutSince(2, 5, 1), OutSince(3, 4, 1)), target=(1, 2, 3))
    new = membership.mark_lost(record, 2, 50)
    assert (new.epoch, new.insync) == (10, (2,))
    assert {o.drive: o.e0 for o in new.out} == {3: 0, 1: 0}


def test_a_returning_drive_is_wanted_before_a_new_target():
    record = PgRecord(3, (1,), out=(OutSince(3, 2, 0),), target=(1, 2, 3))
    assert membership.wanted_joins(record, frozenset({1, 2, 3})) == (3, 2)
    assert membership.wanted_joins(record, frozenset({1, 2})) == (2,)


def test_effective_min_insync_is_never_more_than_the_width():
    assert membership.effective_min_insync(2, 1) == 1
    assert membership.effective_min_insync(2, 3) == 2


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_i1_and_i2_hold_over_any_sequence_of_changes(steps):
    record = PgRecord(1, (1, 2, 3), target=(1, 2, 3))
    copied: set[tuple[int, int]] = set()
    for kind, drive, other in steps:
        new = _step(record, kind, drive, other)
        if kind == "promote":
            copied = {(drive, record.epoch)}
        if new is None or new == record:
            continue
        completed = {d for d, epoch in copied if epoch == record.epoch}
        assert new.insync, "I1"
        assert set(new.insync) <= set(record.insync) | completed, "I2"
        assert new.epoch == record.epoch + 1
        everyone = [*new.members(), *(o.drive for o in new.out)]
        assert len(everyone) == len(set(everyone))
        assert all(j.join_epoch <= new.epoch and j.e0 < j.join_epoch for j in new.joining)
        assert all(o.e0 <= record.epoch for o in new.out)
        assert max(len(new.insync), len(new.joining), len(new.out)) <= 8
        record = new


def _step(record: PgRecord, kind: str, drive: int, other: int) -> PgRecord | None:
    if kind == "drop":
        return membership.drop(record, drive, 0)
    if kind == "blank":
        return membership.drop(record, drive, 0, blank=True)
    if kind == "join":
        return membership.join(record, drive)
    if kind == "promote":
        return membership.promote(record, drive, record.epoch)
    if kind == "stale":
        assert membership.promote(record, drive, record.epoch - 1) is None
        return None
    ref = PgRef(1, 1)
    changed, kept = membership.plan_drop({ref: record}, {drive, other}, 0)
    assert all(k == ref for k in kept)
    return changed.get(ref)


def test_an_empty_insync_is_an_invariant_broken():
    from drystone_common.errors import InvariantError

    with pytest.raises(InvariantError):
        membership._checked(PgRecord(1, (1,)), PgRecord(2, ()), completed=())


def test_without_a_live_survivor_nobody_is_dropped():
    ref = PgRef(1, 0)
    pgs = {ref: PgRecord(5, (1, 2, 3))}
    assert membership.plan_drop(pgs, [1], 9, live=frozenset({1})) == ({}, (ref,))
    changed, kept = membership.plan_drop(pgs, [1], 9, live=frozenset({3}))
    assert changed[ref].insync == (2, 3)
    assert kept == ()
