"""What moves would copy, and who would be too full afterwards."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from drystone_storaged.cluster.room import Space, forecast
from tests.storaged.moves_env import POOL, World

GIB = 1 << 30


def spaces(world: World, used: int) -> dict[int, Space]:
    return {number: Space(8 * GIB, used) for number in world.drives}


def test_in_balance_nothing_is_copied():
    world = World([1, 1, 1])
    found = forecast(world.state(), world.preferred(), spaces(world, GIB))
    assert (found.moves, found.bytes, dict(found.gains)) == (0, 0, {})


def test_a_new_drive_gains_what_the_others_lose():
    world = World([1, 1, 1])
    world.add_node("node-4")
    fresh = world.add_drive("node-4")
    known = spaces(world, 4 * GIB) | {fresh: Space(8 * GIB, 0)}
    found = forecast(world.state(), world.preferred(), known)
    assert found.gains == {fresh: found.moves}
    assert sum(found.loses.values()) == found.moves
    assert found.bytes == found.moves * (4 * GIB // 64)
    assert found.overfull(known) == ()


def test_drives_that_would_be_too_full_are_named():
    world = World([1, 1, 1, 1])
    world.change(1, evacuating=True)
    only = frozenset([1])
    known = spaces(world, 6 * GIB)
    found = forecast(world.state(), world.preferred(only), known, only)
    assert found.overfull(known) == (2, 3, 4), "6 of 8 GiB, and a third of 6 more"
    known = spaces(world, 4 * GIB)
    found = forecast(world.state(), world.preferred(only), known, only)
    assert found.overfull(known) == ()
    assert found.overfull({}) == (), "of unknown ones nothing is held against it"


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.integers(1, 2), min_size=3, max_size=5), st.integers(1, 3), st.integers(0, 8 * GIB)
)
def test_what_is_gained_is_lost_elsewhere(nodes, number, used):
    world = World(nodes)
    known = spaces(world, used)
    only = frozenset([number])
    found = forecast(world.state(), world.preferred(only), known, only)
    assert sum(found.gains.values()) == sum(found.loses.values()) == found.moves
    assert set(found.loses) <= only
    assert sum(found.growth.values()) == 0
    assert found.moves <= world.slots()[number]
    assert POOL in world.pools
