"""What a leader keeps in mind between two looks: where it moves to, who is down since when."""

from __future__ import annotations

from drystone_storaged.cluster import moves
from drystone_storaged.cluster.native import NATIVE
from drystone_storaged.cluster.outs import Down
from drystone_storaged.cluster.records import DriveState
from drystone_storaged.manager.aims import Aims
from drystone_storaged.manager.downs import Downs
from tests.storaged.metadata_conformance import FakeClock
from tests.storaged.moves_env import POOL, World


class Asked:
    """The placement, which counts how often it is asked."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, spec):
        self.times += 1
        return NATIVE.place_pool(spec)


async def aim_of(aims: Aims, world: World):
    found = await aims.of(world.pools[POOL], world.state(), world.nodes, balance=True)
    assert found is not None
    return {POOL: found}


async def test_an_aim_is_asked_for_once_and_followed_until_it_is_reached():
    asked, world = Asked(), World([1, 1, 1])
    world.add_node("node-4")
    world.add_drive("node-4")
    aims = Aims(asked)
    first = await aim_of(aims, world)
    for _ in range(100):
        begun = moves.plan_moves(world.state(), await aim_of(aims, world))
        world.apply(begun)
        aims.moved(begun)
        world.join_and_promote()
        world.tend({})
        world.join_and_promote()
    assert asked.times == 1
    assert [pg.target for pg in world.pgs.values()] == list(first[POOL].wanted)


async def test_drives_that_come_or_places_that_change_otherwise_make_a_new_aim():
    asked, world = Asked(), World([1, 1, 1, 1])
    aims = Aims(asked)
    await aim_of(aims, world)
    await aim_of(aims, world)
    assert asked.times == 1
    world.change(2, evacuating=True)
    assert all(2 not in pg for pg in (await aim_of(aims, world))[POOL].wanted)
    assert asked.times == 2
    begun = moves.plan_moves(world.state(), await aim_of(aims, world))
    world.apply(begun)  # nobody said that these were its own
    await aim_of(aims, world)
    assert asked.times == 3
    aims.clear()
    await aim_of(aims, world)
    assert asked.times == 4


async def test_where_nobody_could_take_anything_there_is_no_aim():
    world = World([1, 1, 1])
    for number in world.drives:
        world.change(number, evacuating=True)
    found = await Aims(Asked()).of(world.pools[POOL], world.state(), world.nodes, balance=True)
    assert found is None


def test_a_drive_is_down_since_it_was_seen_and_whether_it_was_seen_going_is_known():
    clock, world = FakeClock(), World([1, 1, 1])
    world.change(1, state=DriveState.DOWN)
    downs = Downs(clock)
    downs.see(world.drives.values())
    clock.now += 30
    world.change(2, state=DriveState.DOWN)
    downs.see(world.drives.values())
    clock.now += 5
    downs.see(world.drives.values())
    assert downs.figures() == {1: Down(35, seen_going=False), 2: Down(5, seen_going=True)}
    world.come_back(1)
    world.change(2, state=DriveState.GONE)
    downs.see(world.drives.values())
    assert downs.figures() == {}
    world.change(1, state=DriveState.DOWN)
    downs.see(world.drives.values())
    assert downs.figures() == {1: Down(0, seen_going=True)}
    downs.clear()
    downs.see(world.drives.values())
    assert downs.figures() == {1: Down(0, seen_going=False)}, "another leader saw it"
