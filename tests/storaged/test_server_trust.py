"""When a suspect drive may begin anew: nothing counts on it, and others have what it held."""

from __future__ import annotations

import pytest

from drystone_storaged.cluster.pgmap import (
    STATE_BYTE,
    ClusterMap,
    Joiner,
    MapDrive,
    MapPool,
    OutSince,
    PgRecord,
    encode_map,
    encode_shard,
)
from drystone_storaged.server.trust import counts_nowhere

ME = 3


def encoded(*pgs: PgRecord, down: tuple[int, ...] = ()) -> bytes:
    drives = tuple(
        MapDrive(n, bytes([n] * 16), bytes([n] * 16), f"n{n}", f"10.0.0.{n}:1", 7,
                 STATE_BYTE["down" if n in down else "up"])
        for n in (1, 2, ME)
    )  # fmt: skip
    pool = MapPool(1, 3, 2, len(pgs), (encode_shard(pgs),))
    return encode_map(ClusterMap(bytes(16), 1, 1, 9, drives, (pool,)))


BLANK = PgRecord(5, (1, 2), out=(OutSince(ME, 0, 0),), target=(1, 2, ME))
ELSEWHERE = PgRecord(5, (1, 2), target=(1, 2))


def test_it_may_where_others_are_up_and_nothing_counts_on_it():
    assert counts_nowhere(encoded(BLANK, ELSEWHERE), ME)
    assert counts_nowhere(encoded(BLANK, down=(1,)), ME), "one of them suffices"


@pytest.mark.parametrize(
    "pg",
    [
        PgRecord(5, (1, ME), target=(1, 2, ME)),
        PgRecord(5, (1,), (Joiner(ME, 5, 4),), target=(1, 2, ME)),
        PgRecord(5, (1,), out=(OutSince(ME, 4, 0),), target=(1, 2, ME)),
    ],
)
def test_it_may_not_while_its_content_counts(pg):
    assert not counts_nowhere(encoded(BLANK, pg), ME)


@pytest.mark.parametrize(
    "pg",
    [
        BLANK,
        PgRecord(5, (1, 2), (Joiner(ME, 5, 0),), target=(1, 2, ME)),
        PgRecord(5, (1, 2), target=(1, 2, ME)),
    ],
)
def test_it_may_not_while_it_could_be_the_last_there_is(pg):
    assert not counts_nowhere(encoded(pg, down=(1, 2)), ME)
    assert counts_nowhere(encoded(ELSEWHERE, down=(1, 2)), ME), "it never had anything of that one"


def test_without_a_map_nothing_is_known():
    assert not counts_nowhere(b"", ME)
