"""What a server may rest its lease on, and what it counts for volumes."""

from __future__ import annotations

from drystone_storaged.cluster.pgmap import ClusterMap, MapPool, PgRecord, encode_map, encode_shard
from drystone_storaged.server.lease import SETTLE_US, UNKNOWN, LeaseGate
from drystone_storaged.server.usage import DriveUsage, first_in_sync


class Gate:
    """A gate with a clock in the test's hand."""

    def __init__(self, drives: int) -> None:
        self.now = 1000
        self.given: list[int | None] = []
        self.wanted = 0
        self.gate = LeaseGate(
            lambda _data, began: self.given.append(began),
            range(drives),
            self._want,
            lambda: self.now,
        )

    def _want(self) -> None:
        self.wanted += 1

    def take(self, began: int | None) -> int | None:
        self.gate.take(b"", began)
        return self.given[-1]


def test_no_lease_rests_on_a_read_before_every_drive_is_known():
    env = Gate(2)
    env.now = 2000
    assert env.take(1500) is None
    env.gate.ready(0)
    assert env.take(2001) is None, "the second drive is not known yet"
    env.now = 3000
    env.gate.ready(1)
    assert env.take(2999) is None, "this read began before the acknowledgement"
    assert env.wanted == 2, "a read that counts is asked for"
    assert env.take(3001) == 3001


def test_a_drive_that_cannot_be_opened_holds_nobody_back():
    env = Gate(2)
    env.gate.ready(0)
    env.gate.failed(1)
    assert env.take(env.now + 1) == env.now + 1


def test_a_drive_opened_later_voids_older_reads():
    env = Gate(1)
    env.gate.failed(0)
    env.now = 5000
    env.gate.ready(0)
    assert (env.take(4000), env.take(5001)) == (None, 5001)


def test_a_drive_that_is_added_later_holds_the_reads_back_until_it_is_known():
    env = Gate(1)
    env.gate.ready(0)
    env.gate.hold(63)
    env.now = 5000
    assert env.take(4000) is None, "the map of this read may lack what became of the drive"
    env.gate.ready(63)
    assert (env.take(4999), env.take(5001)) == (None, 5001)


def test_a_drive_that_never_opens_holds_the_reads_back_for_a_bounded_time_from_its_own_start():
    env = Gate(0)
    env.now += SETTLE_US
    env.gate.hold(63)
    assert env.take(env.now) is None
    env.now += SETTLE_US
    assert env.take(env.now) == env.now


def test_drives_that_nobody_has_named_yet_hold_the_reads_back():
    env = Gate(0)
    env.gate.hold(UNKNOWN)
    assert env.take(env.now) is None
    env.gate.hold(63)
    env.gate.failed(UNKNOWN)
    assert env.take(env.now) is None
    env.gate.failed(63)
    assert env.take(env.now + 1) == env.now + 1


def test_an_endless_replay_holds_the_others_back_for_a_bounded_time():
    env = Gate(2)
    env.gate.ready(0)
    env.now += SETTLE_US
    assert env.take(env.now) == env.now


def test_a_pushed_map_founds_no_lease():
    env = Gate(0)
    assert env.take(None) is None


def map_of(*insync: tuple[int, ...]) -> bytes:
    shard = encode_shard(tuple(PgRecord(1, members) for members in insync))
    return encode_map(
        ClusterMap(bytes(16), 1, 1, 9, (), (MapPool(3, 2, 1, len(insync), (shard,)),))
    )


def test_each_group_is_counted_at_its_first_in_sync_member():
    assert first_in_sync(map_of((1, 2), (2, 1), (1,))) == {
        1: frozenset({(3, 0), (3, 2)}), 2: frozenset({(3, 1)}),
    }  # fmt: skip
    assert first_in_sync(b"") == {}


def test_usage_counts_where_the_drive_speaks_and_follows_the_map():
    usage = DriveUsage()
    usage.count(frozenset({(3, 0)}))
    usage.add(7, (3, 0), 5)
    usage.add(7, (3, 1), 9)
    assert list(usage.take(everything=False)) == [(7, 5)]
    assert list(usage.take(everything=False)) == []
    usage.count(frozenset({(3, 0), (3, 1)}))
    assert list(usage.take(everything=False)) == [(7, 14)]
    usage.count(frozenset())
    assert list(usage.take(everything=False)) == [(7, 0)]
    usage.add(7, (3, 0), -5)
    usage.add(7, (3, 1), -9)
    assert list(usage.take(everything=True)) == [(7, 0)]
    assert list(usage.take(everything=True)) == []
