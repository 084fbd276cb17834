"""How long requests took and what became of them, from the same journals that are judged.

To be asked before a base is made of them: that removes them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from tests.e2e.nemesis.base import Covered, read_base
from tests.e2e.nemesis.history import CHANGES, NEVER, Verb
from tests.e2e.nemesis.journal import Kind, Record, records, segments

GAPS_MAX: Final = 100  # of a lap and volume: that many are too long only where all is wrong


class Request(NamedTuple):
    """One request or try to connect; ``end`` is ``NEVER`` where the client died first."""

    client: int
    verb: int
    kind: int
    start: float
    end: float
    attach: int


class Gap(NamedTuple):
    """A connection wanted to change something and could not, from one time to the other."""

    begin: float
    end: float
    client: int

    @property
    def seconds(self) -> float:
        """How long."""
        return self.end - self.begin


@dataclass(frozen=True, slots=True)
class Attempts:
    """What became of changes that a fenced attachment still had open, or began, after its fence."""

    made: int
    refused: int
    lost: int
    accepted: int


def requests(folder: Path) -> Iterator[Request]:
    """All since the base, each connection's in order."""
    covered = read_base(folder).clients
    for client, number, path in segments(folder):
        if number > covered.get(client, Covered()).segment:
            yield from _requests(client, records(path))


def _requests(client: int, found: Iterable[Record]) -> Iterator[Request]:
    open_change: Record | None = None
    last = NEVER
    for record in found:
        if record.kind == Kind.INVOKE:
            open_change = record
        elif record.kind != Kind.START and record.verb != Verb.FENCE:
            if record.verb in CHANGES:
                open_change = None
            if record.start != last:  # a read of several values is noted in several records
                yield _request(client, record, record.kind, record.end)
            last = record.start
    if open_change is not None:
        yield _request(client, open_change, Kind.LOST, NEVER)


def _request(client: int, record: Record, kind: int, end: float) -> Request:
    return Request(client, record.verb, kind, record.start, end, record.attach)


def latencies(
    found: Iterable[Request], verbs: Iterable[Verb], begin: float, end: float
) -> list[float]:
    """Seconds of every answered request of these kinds that began in a period."""
    wanted = frozenset(verbs)
    return [
        each.end - each.start
        for each in found
        if each.kind == Kind.OK and each.verb in wanted and begin <= each.start <= end
    ]


def longest_gap(found: Iterable[Request], begin: float, end: float) -> Gap | None:
    """The longest of `longest_gaps`."""
    return next(iter(longest_gaps(found, begin, end)), None)


def longest_gaps(found: Iterable[Request], begin: float, end: float) -> list[Gap]:
    """The longest gaps of all connections that touch a period, the longest first.

    Each lasts from the first try, connecting included, to the next acknowledged change, over all
    that failed in between. One that had no end yet counts to the end of the period.
    """
    gaps: list[Gap] = []
    since: dict[int, float] = {}
    for each in found:
        if each.verb not in {*CHANGES, Verb.CONNECT}:
            continue
        first = since.setdefault(each.client, each.start)
        if each.kind == Kind.OK and each.verb in CHANGES:
            gaps.append(Gap(first, each.end, each.client))
            del since[each.client]
    gaps += [Gap(first, max(first, end), client) for client, first in since.items()]
    touching = (gap for gap in gaps if gap.begin <= end and gap.end >= begin)
    return heapq.nlargest(GAPS_MAX, touching, key=lambda gap: gap.seconds)


def attempts_after(found: Iterable[Request], attach: int, fence: float) -> Attempts:
    """What a fenced attachment tried. A change that began before its fence may be acknowledged."""
    kinds: list[int] = []
    accepted = 0
    for each in found:
        if each.attach != attach or each.verb not in CHANGES or each.end <= fence:
            continue
        kinds.append(each.kind)
        accepted += each.kind == Kind.OK and each.start > fence
    return Attempts(len(kinds), kinds.count(Kind.ERROR), kinds.count(Kind.LOST), accepted)
