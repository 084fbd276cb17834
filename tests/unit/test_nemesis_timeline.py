"""Times and outcomes out of the journals of the nemesis."""

from __future__ import annotations

import pytest

from tests.e2e.nemesis.history import NEVER, ZERO, Verb, value_of
from tests.e2e.nemesis.journal import Journal, Kind, Record
from tests.e2e.nemesis.timeline import (
    Attempts,
    Gap,
    attempts_after,
    latencies,
    longest_gap,
    requests,
)


class Notes:
    """A journal with the least to write."""

    def __init__(self, folder, client=1):
        self.journal, self.client, self.count = Journal(folder, client), client, 0

    def change(self, start, end, kind=Kind.OK, attach=1):
        self.count += 1
        fields = (Verb.WRITE, 1, 5, value_of(self.client, self.count), start)
        self.journal.note(Record(Kind.INVOKE, *fields, NEVER, attach, 1))
        if end != NEVER:
            self.journal.note(Record(kind, *fields, end, attach, 1))

    def other(self, verb, start, end, kind=Kind.OK):
        self.journal.note(Record(kind, verb, 1, 5, ZERO, start, end, 1, 1))


@pytest.fixture
def notes(tmp_path):
    made = Notes(tmp_path)
    yield made
    made.journal.close()


def test_a_gap_lasts_over_lost_requests_and_connecting_to_the_next_acknowledged_change(
    tmp_path, notes
):
    notes.change(1, 1.1)
    notes.change(2, 2.5, Kind.LOST)
    notes.other(Verb.CONNECT, 2.5, 3.5, Kind.LOST)
    notes.other(Verb.CONNECT, 3.5, 4)
    notes.other(Verb.READ, 4, 4.5)
    notes.change(4.5, 5)
    notes.change(6, 6.1)
    found = list(requests(tmp_path))
    assert longest_gap(found, 0, 10) == Gap(2, 5, 1)
    assert longest_gap(found, 4.9, 5.1) == Gap(2, 5, 1)
    assert longest_gap(found, 5.5, 10) == Gap(6, 6.1, 1)
    assert longest_gap(found, 7, 10) is None


def test_a_gap_without_an_end_lasts_to_the_end_of_the_period(tmp_path, notes):
    notes.change(1, 1.5)
    notes.change(2, NEVER)
    assert longest_gap(requests(tmp_path), 0, 9) == Gap(2, 9, 1)


def test_gaps_of_connections_are_apart(tmp_path, notes):
    second = Notes(tmp_path, 2)
    for number in range(4):
        notes.change(number, number + 0.1)
        second.change(number, number + 0.2)
    second.journal.close()
    found = longest_gap(requests(tmp_path), 0, 9)
    assert found is not None
    assert found.client == 2
    assert found.seconds == pytest.approx(0.2)


def test_a_read_that_is_noted_in_several_records_is_one_request(tmp_path, notes):
    for _ in range(3):
        notes.other(Verb.READ, 1, 1.5)
    notes.other(Verb.READ, 2, 2.25)
    found = list(requests(tmp_path))
    assert latencies(found, [Verb.READ], 0, 9) == [0.5, 0.25]
    assert latencies(found, [Verb.READ], 1.5, 9) == [0.25]
    assert latencies(found, [Verb.WRITE], 0, 9) == []


def test_what_a_fenced_attachment_tried_is_counted_by_outcome(tmp_path, notes):
    notes.change(1, 2)
    notes.change(3, 6)
    notes.change(6, 7, Kind.ERROR)
    notes.change(7, 8, Kind.LOST)
    notes.change(8, 9)
    notes.change(9, 10, attach=2)
    notes.change(11, NEVER)
    assert attempts_after(requests(tmp_path), 1, 5) == Attempts(5, 1, 2, 1)
