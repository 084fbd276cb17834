"""What stands in for an unreadable record: the value before it, and only where that is proven."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.maprecords import Kind, MapRecords, as_last_known, sort_out
from drystone_storaged.cluster.pgmap import PgRecord, encode_shard
from drystone_storaged.cluster.records import Drive, FailureDomain, Pool
from drystone_storaged.cluster.store import KeyValue

GARBAGE = b"garbage"


def drive(number: int, **changes) -> bytes:
    made: dict[str, Any] = {
        "uuid": str(uuid.UUID(int=number)),
        "node": "ab" * 16,
        "node_name": "n",
        "serial": "s",
    }
    made |= {"capacity": 1, "addr": "a:1", "nonce": 7} | changes
    return encode(Drive(number, **made))


def pool(number: int = 1, pg_count: int = 512) -> bytes:
    return encode(Pool(number, "p", 3, 2, FailureDomain.NODE, pg_count, width=3))


def shard(epoch: int = 1, count: int = 256) -> bytes:
    return encode_shard((PgRecord(epoch, (1, 2, 3), target=(1, 2, 3)),) * count)


class Store:
    """Keys as a store counts them."""

    def __init__(self) -> None:
        self.revision = 0
        self.found: dict[str, KeyValue] = {}
        self.put(keys.drive(1), drive(1))
        self.put(keys.pool(1), pool())
        self.put(keys.shard(1, 0), shard())
        self.put(keys.shard(1, 1), shard())

    def put(self, key: str, value: bytes) -> None:
        self.revision += 1
        old = self.found.get(key)
        created, version = (old.create_revision, old.version + 1) if old else (self.revision, 1)
        self.found[key] = KeyValue(key, value, created, self.revision, version)

    def delete(self, key: str) -> None:
        self.revision += 1
        del self.found[key]

    def read(self) -> MapRecords:
        all_keys = [self.found[key] for key in sorted(self.found)]
        below = [kv for kv in all_keys if kv.key.startswith(keys.DRIVES)]
        return sort_out(below, [kv for kv in all_keys if kv.key.startswith(keys.POOLS)])


OURS = [keys.drive(1), keys.pool(1), keys.shard(1, 0), keys.shard(1, 1)]


@pytest.mark.parametrize("key", OURS)
def test_what_was_read_right_before_it_was_damaged_is_told(key):
    store = Store()
    good = as_last_known(store.read(), None)
    assert good is not None
    store.put(key, GARBAGE)
    now = store.read()
    assert {one.key for one in now.refused} == {key}
    told = as_last_known(now, good)
    assert told is not None
    assert (told.drives, told.pools) == (good.drives, good.pools)
    assert sorted(told.shards, key=lambda s: s.index) == list(good.shards)
    # Asked again and again, also after something else changed.
    store.put(keys.drive(2), drive(2))
    again = as_last_known(store.read(), told)
    assert again is not None
    assert set(again.drives) == {1, 2}
    assert again.pools == good.pools


@pytest.mark.parametrize("key", OURS)
def test_nobody_stands_in_for_what_was_never_read(key):
    store = Store()
    store.put(key, GARBAGE)
    assert as_last_known(store.read(), None) is None


@pytest.mark.parametrize("key", OURS)
def test_a_good_value_in_between_may_be_a_newer_truth(key):
    store = Store()
    good = as_last_known(store.read(), None)
    store.put(key, store.found[key].value)
    store.put(key, GARBAGE)
    assert as_last_known(store.read(), good) is None


@pytest.mark.parametrize("key", OURS)
def test_a_key_that_was_removed_and_made_again_is_another_one(key):
    store = Store()
    good = as_last_known(store.read(), None)
    store.delete(key)
    if key != keys.drive(1):
        assert as_last_known(store.read(), good) is None, "one that is missing is not empty"
    store.put(key, GARBAGE)
    assert as_last_known(store.read(), good) is None


def test_a_pool_of_which_another_part_changed_too_is_not_told():
    store = Store()
    good = as_last_known(store.read(), None)
    store.put(keys.shard(1, 1), shard(epoch=2))
    store.put(keys.shard(1, 0), GARBAGE)
    assert as_last_known(store.read(), good) is None


def test_two_pools_damaged_one_after_the_other_are_both_told():
    store = Store()
    store.put(keys.pool(2), pool(2, 256))
    store.put(keys.shard(2, 0), shard())
    told = as_last_known(store.read(), None)
    store.put(keys.shard(1, 0), GARBAGE)
    told = as_last_known(store.read(), told)
    store.put(keys.shard(2, 0), shard(epoch=2))
    told = as_last_known(store.read(), told)
    assert told is not None
    store.put(keys.pool(2), GARBAGE)
    told = as_last_known(store.read(), told)
    assert told is not None
    assert set(told.pools) == {1, 2}
    (second,) = [s for s in told.shards if s.pool == 2]
    assert second.value == shard(epoch=2)


def test_garbage_under_a_number_that_nobody_had_hides_nothing():
    store = Store()
    good = as_last_known(store.read(), None)
    store.put(keys.pool(9), GARBAGE)
    store.put(keys.drive(9), GARBAGE)
    told = as_last_known(store.read(), good)
    assert told is not None
    assert (set(told.pools), set(told.drives)) == ({1}, {1})
    store.put(keys.pool(9), GARBAGE)
    assert as_last_known(store.read(), told) is None, "its first value was not seen"


@pytest.mark.parametrize(
    "value",
    [
        drive(2), drive(1, uuid="x"), drive(1, node="xyz"), drive(1, node="ab"),
        drive(1, nonce=1 << 64), drive(1, addr="a" * 300), b"[]", b"\xff", b"",
    ],
)  # fmt: skip
def test_a_drive_that_no_map_could_tell_of_is_refused(value):
    store = Store()
    store.put(keys.drive(1), value)
    now = store.read()
    assert [(one.kind, one.number) for one in now.refused] == [(Kind.DRIVE, 1)]
    assert now.drives == {}


@pytest.mark.parametrize(
    "value", [pool(2), pool(pg_count=3), pool(pg_count=0), pool(pg_count=256), pool(pg_count=1024)]
)
def test_a_pool_that_does_not_fit_its_shards_is_refused_as_a_whole(value):
    store = Store()
    store.put(keys.pool(1), value)
    now = store.read()
    assert {(one.kind, one.number) for one in now.refused} == {(Kind.POOL, 1)}
    assert (now.pools, now.shards) == ({}, ())


def test_foreign_keys_do_not_date_the_map():
    store = Store()
    before = store.read().revision
    store.put("/pool/0001/map/0000", GARBAGE)
    store.put("/drive/000000001", GARBAGE)
    store.put("/drive/0000000A", GARBAGE)
    now = store.read()
    assert now.revision == before
    assert {one.kind for one in now.refused} == {Kind.FOREIGN}
    assert as_last_known(now, None) is not None
