"""Lost drives leave for good, and new ones take the places that are empty."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drystone_common.errors import ConflictError, NotFoundError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster import replace as planner
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.membership_service import Evidence
from drystone_storaged.cluster.pgmap import Joiner, OutSince, PgRecord
from drystone_storaged.cluster.placement import PlacementSpec
from drystone_storaged.cluster.pools import PoolSpec
from drystone_storaged.cluster.records import DriveState, FailureDomain
from drystone_storaged.cluster.replacement import ReplacementService
from drystone_storaged.cluster.store import Put
from tests.storaged.cluster_env import Env, cluster


@pytest.fixture
async def env(tmp_path):
    async with cluster(tmp_path) as env:
        yield env


def service(env: Env, place=None) -> ReplacementService:
    chosen = place or env.pools._native.place_pool
    return ReplacementService(env.store, env.leadership, env.membership, env.drives, chosen)


async def down(env: Env, number: int) -> None:
    """A drive whose server ended: down, and dropped wherever another copy lives."""
    state = await env.state()
    await env.drives.set_down({number: state.drive_revisions[number]}, "gone", ended=True)
    await env.membership.drop([number], Evidence("gone", env.clock()))


async def lose(env: Env, number: int) -> None:
    await down(env, number)
    await service(env).forget(str(number))


async def targets(env: Env) -> list[tuple[int, ...]]:
    return [pg.target for pg in (await env.state()).pgs().values()]


async def promote_all(env: Env) -> None:
    pgs = (await env.state()).pgs()
    joining = {ref: [(j.drive, pg.epoch) for j in pg.joining] for ref, pg in pgs.items()}
    await env.membership.promote(joining)


async def test_a_new_drive_takes_the_place_of_a_lost_one_in_every_pg(env):
    await lose(env, 2)
    assert not (await service(env).refill()).changed, "nobody is there for the empty place"
    assert {len(t) for t in await targets(env)} == {2}
    nodes = {n.name: n for n in await env.nodes.list("server")}
    fresh = await env.add_drive(nodes["node-2"], "drive-2b")
    done = await service(env).refill()
    assert len(done.changed) == 64
    assert {frozenset(t) for t in await targets(env)} == {frozenset({1, 3, fresh.id})}
    await env.membership.join_wanted()
    pgs = (await env.state()).pgs().values()
    assert all(pg.joining == (Joiner(fresh.id, pg.epoch, 0),) for pg in pgs), "copied whole"
    await promote_all(env)
    assert all(len(pg.insync) == 3 for pg in (await env.state()).pgs().values())


async def test_filling_places_again_changes_nothing(env):
    await lose(env, 2)
    await env.add_drive(await env.add_node("node-4"), "drive-4")
    assert (await service(env).refill()).changed
    before = await env.state()
    assert (await service(env).refill()).changed == ()
    assert (await env.state()).revision == before.revision


async def test_the_placement_is_asked_only_where_a_drive_could_take_a_place(env):
    asked: list[PlacementSpec] = []

    def place(spec: PlacementSpec) -> list[tuple[int, ...]]:
        asked.append(spec)
        return []

    refill = service(env, place).refill
    await refill()
    await lose(env, 2)
    await refill()
    nodes = {n.name: n for n in await env.nodes.list("server")}
    # Its domain has a copy of every PG already.
    await env.add_drive(nodes["node-1"], "drive-1b")
    await refill()
    assert not asked


async def test_a_drive_that_went_down_while_places_were_chosen_gets_none(env):
    await lose(env, 2)
    fresh = await env.add_drive(await env.add_node("node-4"), "drive-4")
    state = await env.state()
    nodes = {n.uuid: n for n in await env.nodes.list("server")}
    (spec,) = planner.placements_wanted(state, nodes)
    preferred = {spec.pool: env.pools._native.place_pool(spec)}
    assert planner.plan_replacement(state, nodes, preferred)
    await down(env, fresh.id)
    assert planner.plan_replacement(await env.state(), nodes, preferred) == {}


async def test_a_forget_that_was_cut_off_is_finished_by_the_next_look(env):
    """The record says gone, the PGs do not know it yet, and it is even joining somewhere."""
    await down(env, 2)
    state = await env.state()
    await env.membership.edit(
        lambda now: (
            {ref: replace(pg, joining=(Joiner(2, pg.epoch, 0),)) for ref, pg in now.pgs().items()},
            (),
        ),
        "a test",
    )
    gone = replace(state.drives[2], state=DriveState.GONE)
    await env.store.txn([], [Put(keys.drive(2), encode(gone))])
    await service(env).refill()
    for pg in (await env.state()).pgs().values():
        assert 2 not in (*pg.target, *pg.members(), *(o.drive for o in pg.out))


async def test_every_place_has_its_own_domain(env):
    await lose(env, 2)
    node = await env.add_node("node-4")
    both = {(await env.add_drive(node, name)).id for name in ("drive-4a", "drive-4b")}
    await service(env).refill()
    wanted = await targets(env)
    assert all(len(both.intersection(t)) == 1 for t in wanted)
    counts = [sum(d in t for t in wanted) for d in both]
    assert min(counts) >= 24, "the two share the work"


async def test_a_pool_that_was_made_too_narrow_grows_with_the_cluster(tmp_path):
    async with cluster(tmp_path, servers=1, pool=False) as env:
        pool, _ = await env.pools.create(PoolSpec("default", 3, 2, FailureDomain.NODE))
        assert pool.width == 1
        for number in (2, 3):
            await env.add_drive(await env.add_node(f"node-{number}"), f"drive-{number}")
        assert (await service(env).refill()).changed
        assert (await env.pools.find("default")).width == 1, "nothing is copied yet"
        for _ in range(2):
            await env.membership.join_wanted()
            await promote_all(env)
        await service(env).refill()
        assert (await env.pools.find("default")).width == 3


async def test_a_drive_that_is_up_or_needed_is_not_forgotten(env):
    with pytest.raises(ConflictError, match="is up"):
        await service(env).forget("2")
    state = await env.state()
    await env.drives.set_down({2: state.drive_revisions[2]}, "gone", ended=True)
    with pytest.raises(ConflictError, match="in-sync copy of PGs default/0, default/1") as caught:
        await service(env).forget("2")
    assert "mark-lost default/0 --yes" in (caught.value.hint or "")
    assert (await env.state()).pgs() == state.pgs()
    with pytest.raises(NotFoundError):
        await service(env).forget("77")


async def test_a_forgotten_drive_is_forgotten_once_and_never_opened_again(env):
    await lose(env, 2)
    assert (await service(env).forget("2")).state is DriveState.GONE
    nodes = {n.name: n for n in await env.nodes.list("server")}
    request = env.open_request("drive-2", 8, 7)
    with pytest.raises(ConflictError) as caught:
        await env.drives.open(nodes["node-2"], request, lambda _: False)
    assert caught.value.code == "drive_forgotten"


async def test_a_joiner_is_forgotten_with_its_copy(env):
    await down(env, 2)
    nodes = {n.name: n for n in await env.nodes.list("server")}
    await env.drives.open(nodes["node-2"], env.open_request("drive-2", 8, 7), lambda _: False)
    await env.drives.report(nodes["node-2"], 2, 8, DriveState.UP, "")
    await env.membership.join_wanted()
    state = await env.state()
    assert all(pg.joiner(2) for pg in state.pgs().values())
    await env.drives.set_down({2: state.drive_revisions[2]}, "gone", ended=True)
    await service(env).forget("2")
    assert all(set(pg.members()) == {1, 3} for pg in (await env.state()).pgs().values())


async def test_a_drive_that_is_opened_while_it_is_forgotten_stays(env):
    await down(env, 2)
    nodes = {n.name: n for n in await env.nodes.list("server")}
    found = await env.drives.find("2")

    class Opens:
        async def find(self, _which):
            return found

    forgetting = service(env)
    forgetting._drives = Opens()  # type: ignore[assignment]
    edit = env.membership.edit

    async def opened_first(plan, what, conditions=()):
        await env.drives.open(nodes["node-2"], env.open_request("drive-2", 8, 7), lambda _: False)
        return await edit(plan, what, conditions)

    env.membership.edit = opened_first
    with pytest.raises(ConflictError, match="changed meanwhile"):
        await forgetting.forget("2")
    assert (await env.drives.find("2")).state is DriveState.DOWN


def test_a_forgotten_drive_leaves_as_joiner_and_from_memory_but_never_as_the_only_copy():
    record = PgRecord(5, (1,), (Joiner(2, 4, 0),), (OutSince(3, 2, 9),), (1, 2, 3))
    new = planner.without(record, frozenset({2, 3}))
    assert new == PgRecord(6, (1,), (), (), (1,))
    assert planner.without(PgRecord(5, (1,), target=(1,)), frozenset({1})).insync == (1,)
