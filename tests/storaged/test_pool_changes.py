"""Changing and deleting pools: over the services, and over REST."""

from __future__ import annotations

import pytest

from drystone_common.errors import ConflictError, InvalidArgumentError, NotFoundError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.pools import PoolChanges, PoolSpec
from drystone_storaged.cluster.records import Rebalance, Volume
from drystone_storaged.cluster.volumes import VolumeSpec
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.cluster_env import GIB, cluster
from tests.storaged.manager_env import manager, peers, until


@pytest.fixture
async def env(tmp_path):
    async with cluster(tmp_path) as env:
        yield env


async def test_min_insync_is_changed_and_the_map_says_so(env):
    before = (await env.state()).to_map()
    pool = await env.pools.change("default", PoolChanges(min_insync=1))
    after = (await env.state()).to_map()
    assert pool.min_insync == 1
    assert (before.pools[0].min_insync, after.pools[0].min_insync) == (2, 1)
    assert after.revision > before.revision
    await env.pools.change("default", PoolChanges(min_insync=1))
    assert (await env.state()).revision == after.revision, "repeating it changes nothing"


@pytest.mark.parametrize("wanted", [0, 4])
async def test_an_impossible_min_insync_is_answered_with_the_possible_ones(env, wanted):
    with pytest.raises(InvalidArgumentError) as caught:
        await env.pools.change("default", PoolChanges(min_insync=wanted))
    assert "1 to 3" in (caught.value.hint or "")


async def test_out_time_and_rebalance_are_changed_each_by_itself(env):
    pool = await env.pools.change("default", PoolChanges(out_time_s=0))
    assert (pool.out_time_s, pool.min_insync, pool.rebalance) == (0, 2, Rebalance.AUTO)
    pool = await env.pools.change("default", PoolChanges(rebalance=Rebalance.MANUAL))
    assert (pool.out_time_s, pool.rebalance) == (0, Rebalance.MANUAL)


@pytest.mark.parametrize("wanted", [-1, 9, 8 * 86_400])
async def test_an_out_time_that_is_too_short_or_too_long_is_refused(env, wanted):
    with pytest.raises(InvalidArgumentError) as caught:
        await env.pools.change("default", PoolChanges(out_time_s=wanted))
    assert caught.value.code == "invalid_out_time"
    with pytest.raises(InvalidArgumentError, match="nothing to change"):
        await env.pools.change("default", PoolChanges())


async def test_an_empty_pool_is_deleted_and_the_map_never_goes_back(env):
    await env.pools.create(PoolSpec("second", 2, 1))
    newest = await env.state()
    await env.pools.delete("second")
    after = await env.state()
    assert after.revision > newest.revision, "readers take only newer maps"
    assert [pool.name for pool in after.pools.values()] == ["default"]
    assert {shard.pool for shard in after.shards} == {1}
    assert after.incarnation == newest.incarnation
    with pytest.raises(NotFoundError):
        await env.pools.delete("second")


async def test_the_number_of_a_deleted_pool_is_never_given_again(env):
    first, _ = await env.pools.create(PoolSpec("second", 2, 1))
    await env.pools.delete("second")
    again, _ = await env.pools.create(PoolSpec("second", 2, 1))
    assert again.id > first.id


async def test_a_pool_with_volumes_or_with_deleted_ones_not_freed_yet_stays(env):
    volume = await env.add_volume()
    with pytest.raises(ConflictError, match="has 1 volumes: v"):
        await env.pools.delete("default")
    env.servers.silent.add(2)
    await env.volumes.delete(volume.id)
    await env.orders.run()
    with pytest.raises(ConflictError, match="not freed on every drive"):
        await env.pools.delete("default")
    env.servers.silent.clear()
    assert await env.orders.run() == 0
    await env.pools.delete("default")


async def test_a_volume_that_is_made_while_its_pool_is_deleted_wins_or_is_refused(env):
    refuse = env.pools._refuse_used
    made: list[Volume] = []

    async def while_looking(pool):
        await refuse(pool)
        if not made:
            made.append(await env.add_volume())

    env.pools._refuse_used = while_looking
    with pytest.raises(ConflictError, match="has 1 volumes"):
        await env.pools.delete("default")
    assert (await env.pools.find("default")).id == made[0].pool


async def test_a_volume_is_not_made_in_a_pool_that_was_deleted_meanwhile(env):
    found = env.pools.for_volume

    async def deleted_after(name):
        answer = await found(name)
        await env.pools.delete(name)
        return answer

    env.pools.for_volume = deleted_after
    with pytest.raises(ConflictError, match="is being deleted"):
        await env.volumes.create(VolumeSpec("late", GIB))
    assert await env.store.get(keys.name("volume", "late")) is None


async def test_pools_are_changed_and_deleted_over_rest(tmp_path):
    async with manager(tmp_path) as mgr, peers(mgr, 3, 0):
        path = "/v1/pools/default"
        answer = await mgr.http.patch(path, json={"min_insync": 1})
        assert (answer.status_code, answer.json()["min_insync"]) == (200, 1)
        assert (await mgr.http.patch(path, json={"copies": 2})).status_code == 400
        assert (await mgr.http.patch(path, json={"min_insync": 9})).json()["hint"] == (
            "give 1 to 3; writes wait while fewer copies are in sync"
        )
        body = {"name": "v", "size": 4096}
        assert (await mgr.http.post("/v1/volumes", json=body)).status_code == 201
        refused = await mgr.http.delete(path)
        assert (refused.status_code, refused.json()["code"]) == (409, "pool_in_use")
        second = {"name": "second", "copies": 2}
        assert (await mgr.http.post("/v1/pools", json=second)).status_code == 201
        operate = mgr.auth("operate")
        assert (await mgr.http.delete("/v1/pools/second", headers=operate)).status_code == 403
        assert (await mgr.http.delete("/v1/pools/second")).status_code == 204
        assert (await mgr.http.get("/v1/pools/second")).status_code == 404
        assert len((await mgr.http.get("/v1/pools")).json()["items"]) == 1


async def test_a_lost_drive_is_forgotten_over_rest_and_a_new_one_joins_by_itself(tmp_path):
    async with manager(tmp_path) as mgr, peers(mgr, 3, 0) as made:
        assert (await mgr.http.delete("/v1/drives/3")).json()["code"] == "drive_in_use"
        await made[2].ready(pb.DRIVE_STATE_CLOSED)
        assert (await mgr.http.delete("/v1/drives/3")).status_code == 204
        assert (await mgr.http.delete("/v1/drives/3")).status_code == 204, "it may be repeated"
        assert (await mgr.http.delete("/v1/drives/99")).status_code == 404
        fresh = made[2]
        await fresh.open_drive(uuid=b"3" * 16)

        async def joins() -> bool:
            pgs = (await mgr.services.feed.read()).pgs().values()
            return all(pg.joiner(fresh.drive) for pg in pgs)

        await until(joins, "the joins of the new drive")
