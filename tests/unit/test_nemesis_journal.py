"""Journals of the nemesis: what was written down survives kills and runs, and becomes a base."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.e2e.nemesis import journal as journals
from tests.e2e.nemesis import rejudge
from tests.e2e.nemesis.base import resume
from tests.e2e.nemesis.check import check, check_block
from tests.e2e.nemesis.collect import NotQuietError, collect, compact, settle
from tests.e2e.nemesis.history import NEVER, ZERO, Verb, value_of, writer_of
from tests.e2e.nemesis.journal import (
    RECORD_BYTES,
    Journal,
    JournalDamagedError,
    Kind,
    Record,
    packed,
    records,
    segments,
)
from tests.unit.nemesis_histories import good_history, possible, read, trim, write


def note(journal, kind, verb, block, value, *times, blocks=1, attach=1):
    start, end = times if len(times) == 2 else (*times, NEVER)
    journal.note(Record(kind, verb, blocks, block, value, start, end, attach, 1))


def wrote(journal, block, value, start, end, **more):
    note(journal, Kind.INVOKE, Verb.WRITE, block, value, start, **more)
    note(journal, Kind.OK, Verb.WRITE, block, value, start, end, **more)


def saw(journal, block, value, start, end, **more):
    note(journal, Kind.OK, Verb.READ, block, value, start, end, **more)


@given(st.tuples(
    st.sampled_from(Kind), st.sampled_from(Verb), st.integers(0, 65535),
    st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.floats(allow_nan=False),
    st.floats(allow_nan=False), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1),
))  # fmt: skip
def test_a_record_is_read_as_it_was_written(tmp_path_factory, fields):
    path = tmp_path_factory.getbasetemp() / "one"
    path.write_bytes(packed(Record(*fields)))
    assert list(records(path)) == [Record(*fields)]
    assert len(packed(Record(*fields))) == RECORD_BYTES


@pytest.mark.parametrize("cut", [1, 47, 48])
def test_a_torn_end_is_left_away_and_the_next_segment_goes_on(tmp_path, cut):
    with Journal(tmp_path, 1) as journal:
        for number in (1, 2):
            wrote(journal, 5, value_of(1, number), number, number + 0.5)
    path = segments(tmp_path)[0].path
    path.write_bytes(path.read_bytes()[:-cut])
    with Journal(tmp_path, 1) as journal:
        saw(journal, 5, value_of(1, 2), 4, 5)
    found = collect(tmp_path)
    assert found.clients[1].count == 2
    changes = [op for op in found.history.blocks[5] if op.verb == Verb.WRITE and op.client]
    # Without its outcome the last write is one of which nobody knows whether it came.
    assert [op.end for op in changes] == [1.5, NEVER]
    assert check(found.history).clean


def test_a_last_record_with_a_wrong_checksum_is_torn_and_one_before_others_is_damage(tmp_path):
    with Journal(tmp_path, 1) as journal:
        wrote(journal, 5, value_of(1, 1), 1, 2)
    path = segments(tmp_path)[0].path
    good = bytearray(path.read_bytes())
    torn = good.copy()
    torn[-1] ^= 1
    path.write_bytes(torn)
    assert len(list(records(path))) == 2
    good[RECORD_BYTES + 20] ^= 1
    path.write_bytes(good)
    with pytest.raises(JournalDamagedError, match=r"record 1 of .* cannot be judged"):
        collect(tmp_path)


def test_a_client_that_was_killed_before_its_first_record_leaves_nothing(tmp_path):
    with Journal(tmp_path, 1):
        pass
    segments(tmp_path)[0].path.write_bytes(b"torn")
    assert collect(tmp_path).history.blocks == {}


def test_a_request_of_many_blocks_counts_in_each(tmp_path):
    value = value_of(3, 1)
    with Journal(tmp_path, 3) as journal:
        wrote(journal, 8, value, 1, 2, blocks=3)
        saw(journal, 8, value, 3, 4, blocks=2)
        saw(journal, 10, ZERO, 3, 4)
    verdict = check(collect(tmp_path).history)
    assert (verdict.blocks, verdict.wrong) == (3, 1)
    assert verdict.offences[0][0] == 10


def test_an_error_and_a_lost_connection_leave_a_change_possible_for_ever(tmp_path):
    with Journal(tmp_path, 1) as journal:
        for number, kind in ((1, Kind.ERROR), (2, Kind.LOST)):
            note(journal, Kind.INVOKE, Verb.WRITE, 5, value_of(1, number), number)
            note(journal, kind, Verb.WRITE, 5, value_of(1, number), number, number + 0.5)
        saw(journal, 5, value_of(1, 2), 100, 101)
        saw(journal, 5, value_of(1, 1), 102, 103)
    verdict = check(collect(tmp_path).history)
    assert verdict.clean
    assert verdict.unknown == 2


def test_the_next_run_judges_against_the_base(tmp_path):
    kept, lost = value_of(1, 1), value_of(1, 2)
    with Journal(tmp_path, 1) as journal:
        wrote(journal, 5, kept, 1, 2)
        note(journal, Kind.INVOKE, Verb.WRITE, 5, lost, 3)
        note(journal, Kind.LOST, Verb.WRITE, 5, lost, 3, 4)
        saw(journal, 5, kept, 5, 6)
    compact(collect(tmp_path))
    assert segments(tmp_path) == []
    journal, count = resume(tmp_path, 1)
    assert count == 2
    with journal:
        saw(journal, 5, lost, 7, 8)
        assert check(collect(tmp_path).history).clean
        saw(journal, 5, kept, 9, 10)
        assert check(collect(tmp_path).history).wrong == 1
    assert collect(tmp_path).clients[1].count == 2


def test_a_write_that_took_effect_before_the_base_does_not_come_again_after_it(tmp_path):
    first, second = value_of(1, 1), value_of(1, 2)
    with Journal(tmp_path, 1) as journal:
        note(journal, Kind.INVOKE, Verb.WRITE, 5, first, 1)
        note(journal, Kind.LOST, Verb.WRITE, 5, first, 1, 2)
        saw(journal, 5, first, 3, 4)
        wrote(journal, 5, second, 5, 6)
        saw(journal, 5, second, 7, 8)
    compact(collect(tmp_path))
    with Journal(tmp_path, 2) as journal:
        saw(journal, 5, first, 9, 10)
    verdict = check(collect(tmp_path).history)
    assert verdict.wrong == 1
    assert "settled to be gone" in verdict.words("v")


def test_compaction_that_was_killed_before_it_removed_a_segment_does_not_count_it_twice(tmp_path):
    with Journal(tmp_path, 1) as journal:
        wrote(journal, 5, value_of(1, 1), 1, 2)
        saw(journal, 5, value_of(1, 1), 3, 4)
    path = segments(tmp_path)[0].path
    before = path.read_bytes()
    compact(collect(tmp_path))
    path.write_bytes(before)
    found = collect(tmp_path)
    assert found.history.blocks == {}
    assert found.clients[1].count == 1


def test_a_base_needs_a_read_of_every_block_after_all_else_on_it(tmp_path):
    with Journal(tmp_path, 1) as journal:
        saw(journal, 5, ZERO, 1, 4)
        wrote(journal, 5, value_of(1, 1), 3, 5)
    with pytest.raises(NotQuietError, match="block 5"):
        compact(collect(tmp_path))
    assert len(segments(tmp_path)) == 1


def test_times_of_an_earlier_boot_lie_before_those_of_the_latest(tmp_path, monkeypatch):
    old, new = value_of(1, 1), value_of(1, 2)
    with Journal(tmp_path, 1) as journal:
        wrote(journal, 5, old, 1000, 1001)
        saw(journal, 5, old, 1002, 1003)
        wrote(journal, 6, old, 1000, 1001)
        note(journal, Kind.OK, Verb.FENCE, 0, 0, 1004, 1004, attach=9)
        saw(journal, 6, old, 1005, 1006)
    compact(collect(tmp_path))
    monkeypatch.setattr(journals, "boot", lambda: 12345)
    with resume(tmp_path, 1)[0] as journal:
        wrote(journal, 5, new, 1, 2)
        saw(journal, 5, new, 3, 4)
    found = collect(tmp_path)
    assert check(found.history).clean
    assert found.history.fences[9] < 1
    base = compact(found)
    assert base.boot == 12345
    assert base.blocks[6].value == old
    assert base.blocks[6].at < base.blocks[5].at == 3
    with Journal(tmp_path, 2) as journal:
        saw(journal, 5, old, 5, 6)
    assert check(collect(tmp_path).history).wrong == 1


@given(st.integers(0, 1 << 32), st.integers(0, 1 << 32), st.integers(0, 8), st.booleans())
def test_judging_in_two_parts_finds_what_judging_the_whole_does(seed, other, count, trims):
    ops = good_history(seed, count, trims=trims)
    settled = settle(0, ops)
    begin = ops[-1].end + 1
    # What comes after is good or not: a history of its own that begins with something else.
    after = good_history(other, 3, begin=begin, trims=trims, first=100)[1:]
    after = [read(1 + other % 9, begin + 20, begin + 21), *after] if other % 2 else after
    whole, part = [*ops, *after], [*settled.ops(), *after]
    if not trims:
        assert (check_block(part) is None) == (check_block(whole) is None)
    elif check_block(part) is not None:
        assert check_block(whole) is not None


def test_a_trim_that_may_be_left_is_kept_and_one_that_was_seen_is_not():
    seen = [write(1, 0, 1), trim(2), read(ZERO, 3, 4), write(2, 5, 6), read(2, 7, 8)]
    assert settle(0, seen).pending == ()
    left = [write(1, 0, 1), trim(2), trim(2, 3), read(ZERO, 4, 5)]
    assert settle(0, left).pending == (trim(2),)
    assert possible([*left, write(3, 6, 7), read(ZERO, 8, 9)])


def test_values_name_their_writer():
    assert writer_of(value_of(7, 12)) == (7, 12)
    for client, count in ((0, 1), (1, 0), (1 << 24, 1), (1, 1 << 40)):
        with pytest.raises(ValueError, match="can be told"):
            value_of(client, count)


def test_kept_journals_are_judged_again_by_hand(tmp_path, monkeypatch, capsys):
    with Journal(tmp_path, 1) as journal:
        wrote(journal, 5, value_of(1, 1), 1, 2)
    monkeypatch.setattr("sys.argv", ["rejudge", str(tmp_path)])
    assert rejudge.main() == 0
    with Journal(tmp_path, 2) as journal:
        saw(journal, 5, ZERO, 3, 4)
    assert rejudge.main() == 1
    assert "block 5: an acknowledged change is lost" in capsys.readouterr().out
    for argv, code in ((["--help"], 0), ([], 2), ([str(tmp_path / "none")], 2)):
        monkeypatch.setattr("sys.argv", ["rejudge", *argv])
        with pytest.raises(SystemExit) as ended:
            rejudge.main()
        assert ended.value.code == code
