"""Moves: bounded, towards the aim, and never with fewer copies than before."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from drystone_storaged.cluster import moves
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.pgmap import Joiner, OutSince, PgRecord
from drystone_storaged.cluster.records import DriveState
from tests.storaged.moves_env import POOL, World


def test_in_balance_nothing_moves():
    world = World([1, 1, 1, 1])
    aims = world.aim()
    assert moves.plan_moves(world.state(), aims) == {}
    assert moves.moves_left(world.state(), POOL, aims[POOL]) == 0
    assert world.settle(aims) == 0


def test_a_new_drive_gets_its_share_few_groups_at_a_time():
    world = World([1, 1, 1])
    world.add_node("node-4")
    fresh = world.add_drive("node-4")
    aims = world.aim()
    assert moves.moves_left(world.state(), POOL, aims[POOL]) >= 47
    begun = moves.plan_moves(world.state(), aims)
    assert len(begun) == moves.TO_MAX, "one new drive takes two groups at a time"
    world.settle(aims)
    assert moves.moves_left(world.state(), POOL, aims[POOL]) == 0
    counts = world.slots()
    assert counts[fresh] in (47, 48, 49)
    assert max(counts.values()) - min(counts.values()) <= 2
    assert all(set(pg.insync) == set(pg.target) and not pg.out for pg in world.pgs.values())


def test_a_drive_that_only_shares_gives_one_group_at_a_time():
    world = World([1, 1, 1])
    for _ in range(3):
        world.add_node(f"node-{len(world.nodes) + 1}")
        world.add_drive(f"node-{len(world.nodes)}")
    begun = moves.plan_moves(world.state(), world.aim())
    given_by = Counter(
        d for ref, pg in begun.items() for d in set(world.pgs[ref].target) - set(pg.target)
    )
    assert len(begun) == 3
    assert set(given_by.values()) == {1}


def test_nothing_is_balanced_while_a_copy_is_missing_and_nothing_that_nobody_asked_for():
    world = World([1, 1, 1])
    world.add_node("node-4")
    world.add_drive("node-4")
    assert moves.plan_moves(world.state(), world.aim(balance=False)) == {}
    aims = world.aim()
    world.fail(2)
    assert moves.plan_moves(world.state(), aims) == {}
    assert moves.plan_moves(world.state(), {}) == {}


def test_an_emptied_drive_keeps_its_copies_until_others_have_them():
    world = World([2, 2, 2])
    world.change(1, evacuating=True)
    aims = world.aim(balance=False)
    begun = moves.plan_moves(world.state(), aims)
    world.apply(begun)
    assert len(begun) == 2, "only its neighbour may take them, two at a time"
    assert all(1 in world.pgs[ref].insync for ref in begun)
    assert moves.surplus(world.state()) == {}, "no new copy is in sync yet"
    world.settle(aims)
    assert world.holds(1) == 0
    assert moves.moves_left(world.state(), POOL, aims[POOL]) == 0


def test_an_emptied_drive_without_a_place_for_its_copies_keeps_them():
    world = World([1, 1, 1])
    world.change(1, evacuating=True)
    world.settle(world.aim(balance=False))
    assert world.holds(1) == 64


def test_an_evacuation_that_is_called_off_gives_the_places_back():
    world = World([2, 2, 2])
    world.change(1, evacuating=True)
    begun = moves.plan_moves(world.state(), world.aim(balance=False))
    world.apply(begun)
    world.change(1, evacuating=False)
    where = {POOL: {d.id: d.node for d in world.drives.values()}}
    back = moves.plan_undo(world.state(), where, back=1)
    assert set(back) == set(begun)
    world.apply(back)
    assert all(1 in world.pgs[ref].target for ref in begun)


def test_a_place_goes_back_to_the_copy_that_is_there_when_the_new_drive_goes_down():
    world = World([1, 1, 1])
    world.add_node("node-4")
    fresh = world.add_drive("node-4")
    world.apply(moves.plan_moves(world.state(), world.aim()))
    moving = [ref for ref, pg in world.pgs.items() if fresh in pg.target]
    world.fail(fresh)
    where = {POOL: {d.id: d.node for d in world.drives.values()}}
    back = moves.plan_undo(world.state(), where)
    assert set(back) == set(moving)
    assert all(set(pg.target) == set(pg.insync) for pg in back.values())


def test_a_drive_leaves_only_in_the_epoch_that_it_promised_for():
    world = World([1, 1, 1, 1])
    ref = PgRef(POOL, 0)
    first = world.pgs[ref].target[0]
    spare = next(d for d in world.drives if d not in world.pgs[ref].target)
    world.pgs[ref] = PgRecord(5, (*world.pgs[ref].target, spare), target=world.pgs[ref].target)
    asked = moves.surplus(world.state())[spare]
    up = moves.up_drives(world.state())
    assert moves.plan_retire(world.state(), spare, asked, up - {first}) == {}, "not all live"
    new = moves.plan_retire(world.state(), spare, asked, up)[ref]
    assert (new.epoch, new.insync, new.out) == (6, new.target, ())
    world.pgs[ref] = PgRecord(6, world.pgs[ref].insync, target=world.pgs[ref].target)
    assert moves.plan_retire(world.state(), spare, asked, up) == {}, "another epoch"


def test_a_copy_that_is_no_target_goes_when_all_targets_are_in_sync_and_not_before():
    """As the heir of a group that was marked lost."""
    world = World([1, 1, 1, 1])
    ref = PgRef(POOL, 0)
    target = world.pgs[ref].target
    heir = next(d for d in world.drives if d not in target)
    world.pgs[ref] = PgRecord(9, (heir,), (), tuple(OutSince(d, 0, 1) for d in target), target)
    assert moves.surplus(world.state()) == {}
    world.settle({})
    assert set(world.pgs[ref].insync) == set(target)
    assert world.pgs[ref].out == ()


def test_joiners_that_nobody_wants_go_and_whoever_is_out_is_forgotten_when_all_is_whole():
    world = World([1, 1, 1, 1])
    ref = PgRef(POOL, 0)
    target = world.pgs[ref].target
    other = next(d for d in world.drives if d not in target)
    world.pgs[ref] = PgRecord(7, target, (Joiner(other, 7, 3),), (), target)
    (new,) = moves.plan_tidy(world.state(), 50).values()
    assert new == PgRecord(8, target, (), (), target)
    world.pgs[ref] = PgRecord(7, target[:2], (), (OutSince(other, 3, 1),), target)
    assert moves.plan_tidy(world.state(), 50) == {}, "a copy is missing: it may be of use"


def happen(world: World, what: str, number: int) -> None:
    down = [d.id for d in world.drives.values() if d.state is not DriveState.UP]
    if what == "add":
        world.add_drive(world.drives[number].node_name)
    elif what in ("empty", "keep"):
        world.change(number, evacuating=what == "empty")
    elif what == "fail" and not down:
        world.fail(number)
    elif what == "back":
        for each in down:
            world.come_back(each)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_whatever_comes_and_goes_no_copy_is_lost_and_it_comes_to_rest(data):
    """Drives are added, emptied, fail and return between rounds; every step is checked."""
    world = World(data.draw(st.lists(st.integers(1, 2), min_size=3, max_size=5)), pg_count=32)
    aims = world.aim()
    events = st.sampled_from(["add", "empty", "keep", "fail", "back", "round"])
    for _ in range(data.draw(st.integers(1, 12))):
        happen(world, data.draw(events), data.draw(st.integers(1, len(world.drives))))
        if data.draw(st.booleans()):
            aims = world.aim()
        world.tend(aims)
        if data.draw(st.booleans()):
            world.join_and_promote()
    for number in world.drives:
        world.come_back(number)
    world.settle(aims)
    # The aim of before may name drives that came since: from a new one it must end as well.
    aims = world.aim()
    world.settle(aims)
    width = world.pools[POOL].width
    assert all(len(pg.insync) == width and not pg.joining for pg in world.pgs.values())
    assert moves.in_flight(world.state()) == {}
    assert moves.plan_moves(world.state(), world.aim()) == {}, "at rest the aim is what stands"
