"""When a drive is read back and a pool's copies are compared, by a clock that tests move."""

from __future__ import annotations

from dataclasses import replace

from drystone_storaged.cluster.records import Scrubbed
from drystone_storaged.manager.scrub_plan import (
    DAY_S,
    ScrubRecords,
    due_s,
    overdue,
    periods,
    plan,
)
from tests.storaged.moves_env import POOL, World

DAYS = 14
NONE: tuple[frozenset[int], frozenset[int]] = (frozenset(), frozenset())


def records(world: World, *, done_s: int = 0, since_s: int | None = None) -> ScrubRecords:
    since_s = world.now_s if since_s is None else since_s
    return ScrubRecords(
        {n: Scrubbed(n, since_s, done_s) for n in world.drives},
        {n: Scrubbed(n, since_s, done_s) for n in world.pools},
    )


def due(world: World, known: ScrubRecords, running=NONE):
    return plan(world.state(), world.nodes, known, running, world.now_s)


def test_nothing_is_due_at_once_and_everything_within_the_period():
    world = World([2, 2, 2])
    known = records(world)
    at = {n: due_s(record, DAYS) for n, record in known.drives.items()}
    assert all(world.now_s <= when < world.now_s + DAYS * DAY_S for when in at.values())
    assert len(set(at.values())) == len(at), "they do not come together"
    done = records(world, done_s=world.now_s)
    again = [due_s(record, DAYS) - world.now_s for record in done.drives.values()]
    assert all(0.75 * DAYS * DAY_S <= each <= DAYS * DAY_S for each in again)
    world.now_s -= 1
    assert due(world, records(world, done_s=world.now_s + 1)).drives == ()


def test_one_drive_of_a_node_or_fault_set_at_a_time_the_longest_due_first():
    world = World([2, 2, 2])
    known = records(world)
    world.now_s += DAYS * DAY_S
    chosen = due(world, known).drives
    assert len(chosen) == len({d.node for d in chosen}) == 3
    for drive in chosen:
        mates = [n for n, d in world.drives.items() if d.node == drive.node]
        assert drive.id == min(mates, key=lambda n: due_s(known.drives[n], DAYS))
    running: tuple[frozenset[int], frozenset[int]] = (frozenset({chosen[0].id}), frozenset())
    assert {d.id for d in due(world, known, running).drives} == {d.id for d in chosen[1:]}
    world.nodes = {uuid: replace(node, fault_set="rack") for uuid, node in world.nodes.items()}
    assert len(due(world, known).drives) == 1
    assert due(world, known, running).drives == ()


def test_nothing_begins_while_a_pool_misses_a_copy():
    world = World([1, 1, 1, 1])
    known = records(world)
    world.now_s += DAYS * DAY_S
    assert due(world, known).drives
    assert due(world, known).pool is not None
    world.fail(2)
    assert due(world, known).drives == ()
    assert due(world, known).pool is None


def test_a_drive_that_is_down_or_is_emptied_is_left_out():
    world = World([1, 1, 1])
    known = records(world)
    world.now_s += DAYS * DAY_S
    world.change(2, evacuating=True)
    assert {d.id for d in due(world, known).drives} == {1, 3}


def test_the_shortest_period_of_a_drives_pools_counts_and_0_is_never():
    world = World([1, 1, 1])
    assert periods(world.state()) == dict.fromkeys((1, 2, 3), DAYS)
    world.pools[POOL] = replace(world.pools[POOL], scrub_days=3)
    assert periods(world.state()) == dict.fromkeys((1, 2, 3), 3)
    world.pools[POOL] = replace(world.pools[POOL], scrub_days=0)
    world.now_s += 1000 * DAY_S
    known = records(world, since_s=1)
    assert due(world, known).drives == ()
    assert due(world, known).pool is None
    late = overdue(world.state(), known, world.now_s)
    assert (late.drives, late.pools) == ({}, {})


def test_one_pool_is_compared_at_a_time():
    world = World([1, 1, 1])
    known = records(world)
    world.now_s += DAYS * DAY_S
    assert due(world, known).pool == world.pools[POOL]
    assert due(world, known, (frozenset(), frozenset({9}))).pool is None


def test_after_two_periods_it_is_overdue():
    world = World([1, 1, 1])
    known = records(world)
    world.now_s += 2 * DAYS * DAY_S - 1
    late = overdue(world.state(), known, world.now_s)
    assert (late.drives, late.pools) == ({}, {})
    world.now_s += 1
    late = overdue(world.state(), known, world.now_s)
    assert (late.drives, late.pools) == (dict.fromkeys((1, 2, 3), 28), {POOL: 28})
    fresh = records(world, done_s=world.now_s)
    assert not overdue(world.state(), fresh, world.now_s).drives
    nothing = overdue(world.state(), ScrubRecords(), world.now_s)
    assert not nothing.drives, "it was not looked yet"


def test_every_drive_of_a_large_cluster_has_its_turn_within_two_periods():
    world = World([6, 6, 6])
    known = records(world)
    start, took_s = world.now_s, 8 * 3600
    ends: dict[int, int] = {}
    while world.now_s < start + 2 * DAYS * DAY_S:
        ended = [n for n, at in ends.items() if at <= world.now_s]
        drives = {**known.drives, **{n: Scrubbed(n, ends[n], ends.pop(n)) for n in ended}}
        known = ScrubRecords(drives, known.pools)
        running = (frozenset(ends), frozenset({POOL}))
        for drive in due(world, known, running).drives:
            ends[drive.id] = world.now_s + took_s
        assert len({world.drives[n].node for n in ends}) == len(ends)
        world.now_s += 3600
    assert all(record.done_s > start for record in known.drives.values())
