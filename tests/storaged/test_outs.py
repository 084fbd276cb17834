"""Out for too long: who is replaced, when, and what holds it back."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from drystone_storaged.cluster import outs
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.outs import RECREATE_MAX, RESTART_S, Down, Times
from drystone_storaged.cluster.pgmap import Joiner, OutSince
from drystone_storaged.cluster.records import DriveState
from tests.storaged.moves_env import POOL, World

OUT_TIME_S = 600


def times(world: World, drive: int, down_s: float, *, seen: bool = True, **nodes: float) -> Times:
    """The clocks when a drive was seen down for so long."""
    not_before = {n.uuid: nodes[n.name.replace("-", "_")] for n in world.nodes.values()
                  if n.name.replace("-", "_") in nodes}  # fmt: skip
    return Times(world.now_s, {drive: Down(down_s, seen)}, not_before)


def four() -> World:
    """Drive 2 of four failed at second 10 000."""
    world = World([1, 1, 1, 1])
    world.fail(2)
    return world


def recreate(world: World, when: Times) -> outs.Recreation:
    late = outs.overdue(world.state(), when)
    gone = frozenset(d for drives in late.values() for d in drives)
    return outs.plan_recreation(world.state(), world.nodes, world.preferred(gone), late)


def test_an_ejected_drive_is_late_at_once_where_it_is_down():
    world = four()
    held = sum(2 in pg.target for pg in world.pgs.values())
    ejected = replace(times(world, 2, 0.0), ejected=frozenset([2]), not_before_s={})
    late = outs.overdue(world.state(), ejected)
    assert len(late) == held
    done = recreate(world, ejected)
    world.apply(done.changed)
    assert not done.stuck
    world.come_back(2)
    assert outs.overdue(world.state(), ejected) == {}, "it serves"


def test_a_drive_is_overdue_when_both_clocks_say_so():
    world = four()
    held = sum(2 in pg.target for pg in world.pgs.values())
    world.now_s += OUT_TIME_S
    assert len(outs.overdue(world.state(), times(world, 2, OUT_TIME_S))) == held
    assert outs.overdue(world.state(), times(world, 2, OUT_TIME_S - 1)) == {}, "the wall jumped"
    world.now_s -= 1
    assert outs.overdue(world.state(), times(world, 2, 10 * OUT_TIME_S)) == {}
    world.now_s += 1
    world.come_back(2)
    assert outs.overdue(world.state(), times(world, 2, OUT_TIME_S)) == {}, "it is up"


def test_a_new_leader_waits_two_minutes_before_it_believes_the_wall_clock():
    world = four()
    world.now_s += 10 * OUT_TIME_S
    assert outs.overdue(world.state(), times(world, 2, RESTART_S - 1, seen=False)) == {}
    assert outs.overdue(world.state(), times(world, 2, RESTART_S, seen=False))


def test_a_pool_that_never_replaces_by_itself_has_nobody_overdue():
    world = four()
    world.pools[POOL] = replace(world.pools[POOL], out_time_s=0)
    world.now_s += 10 * OUT_TIME_S
    assert outs.overdue(world.state(), times(world, 2, 10 * OUT_TIME_S)) == {}


def test_the_time_of_a_node_in_maintenance_begins_at_its_end():
    world = four()
    end = world.now_s + 3600
    world.now_s += 3600 + OUT_TIME_S - 1
    assert outs.overdue(world.state(), times(world, 2, 5000, node_2=end)) == {}
    world.now_s += 1
    assert outs.overdue(world.state(), times(world, 2, 5000, node_2=end))


def test_an_overdue_drive_gives_its_places_to_others_and_stays_remembered():
    world = four()
    world.now_s += OUT_TIME_S
    done = recreate(world, times(world, 2, OUT_TIME_S))
    assert 0 < len(done.changed) <= RECREATE_MAX
    assert done.stuck == ()
    world.apply(done.changed)
    for ref in done.changed:
        assert 2 not in world.pgs[ref].target
        out = world.pgs[ref].out_since(2)
        assert out is not None
        assert out.e0 == 1, "an early return is a delta"
    for _ in range(4):
        world.apply(recreate(world, times(world, 2, OUT_TIME_S)).changed)
    world.settle({})
    assert all(len(pg.insync) == 3 and not pg.out for pg in world.pgs.values())
    counts = [count for drive, count in world.slots().items() if drive != 2]
    assert max(counts) - min(counts) <= 4, "the others share what it had"


def test_where_no_other_domain_has_a_drive_the_place_stays_and_it_is_said():
    world = World([1, 2, 1])
    world.fail(1)
    world.now_s += OUT_TIME_S
    done = recreate(world, times(world, 1, OUT_TIME_S))
    assert done.changed == {}
    assert len(done.stuck) == 64


def test_groups_with_the_fewest_copies_get_a_new_one_first():
    world = World([1, 1, 1, 1, 1], pg_count=128)
    world.fail(2)
    world.fail(3)
    world.now_s += OUT_TIME_S
    when = Times(world.now_s, {2: Down(OUT_TIME_S, True), 3: Down(OUT_TIME_S, True)})
    done = recreate(world, when)
    alone = {r for r, pg in world.pgs.items() if {2, 3} <= set(pg.target)}
    assert len(done.changed) == RECREATE_MAX
    assert set(done.changed) <= alone or alone <= set(done.changed)
    world.apply(done.changed)


def test_a_drive_that_returns_gets_its_place_back_from_one_that_has_to_copy_everything():
    world = four()
    world.now_s += OUT_TIME_S
    world.apply(recreate(world, times(world, 2, OUT_TIME_S)).changed)
    ref = next(r for r, pg in world.pgs.items() if pg.out_since(2) and 2 not in pg.target)
    other = next(d for d in world.pgs[ref].target if d not in world.pgs[ref].insync)
    pg = world.pgs[ref]
    world.pgs[ref] = replace(pg, epoch=pg.epoch + 1, joining=(Joiner(other, pg.epoch + 1, 0),))
    assert outs.plan_returns(world.state(), world.nodes, world.now_s) == {}
    world.come_back(2)
    back = outs.plan_returns(world.state(), world.nodes, world.now_s)
    assert back[ref].epoch == pg.epoch + 2, "its joiner left"
    assert (back[ref].joining, back[ref].out) == ((), (OutSince(2, 1, 10_000),))
    assert 2 in back[ref].target
    world.apply(back)
    world.join_and_promote()
    assert all(len(pg.insync) == 3 for pg in world.pgs.values())


def test_a_cold_start_is_when_data_waits_and_more_than_one_node_is_away():
    world = World([1, 1, 1, 1])
    assert not outs.is_cold_start(world.state(), world.nodes)
    for number in (1, 2, 3):
        world.fail(number)
        if number < 3:
            assert not outs.is_cold_start(world.state(), world.nodes), "all data can be read"
    assert outs.is_cold_start(world.state(), world.nodes)
    world.come_back(1)
    world.come_back(2)
    assert not outs.is_cold_start(world.state(), world.nodes), "one that stays away is replaced"


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_re_creation_gives_every_place_to_one_that_is_up_in_a_domain_of_its_own(data):
    world = World(data.draw(st.lists(st.integers(1, 2), min_size=4, max_size=6)), pg_count=32)
    lost = data.draw(st.sets(st.integers(1, len(world.drives)), min_size=1, max_size=2))
    for number in lost:
        world.fail(number)
    world.now_s += OUT_TIME_S
    when = Times(world.now_s, {n: Down(OUT_TIME_S, True) for n in lost})
    for _ in range(8):
        done = recreate(world, when)
        world.apply(done.changed)
        world.join_and_promote()
        if data.draw(st.booleans()):
            world.tend({})
    up = {d.id for d in world.drives.values() if d.state is DriveState.UP}
    homes = {world.drives[d].node for d in up}
    if len(homes) >= 3:
        assert outs.overdue(world.state(), when) == {}
        world.settle({})
        assert all(set(pg.insync) == set(pg.target) <= up for pg in world.pgs.values())
    assert all(PgRef(POOL, n) in world.pgs for n in range(32))
