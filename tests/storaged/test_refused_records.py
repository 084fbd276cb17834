"""Somebody else's keys and unreadable records: set aside and named, never read as nothing."""

from __future__ import annotations

import contextlib

import grpc
import pytest

from drystone_common.errors import DataError, DrystoneError
from drystone_storaged.cluster import keys, pgmap
from drystone_storaged.cluster.mapstate import read_state
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.membership_service import Evidence
from drystone_storaged.cluster.orders import holders
from drystone_storaged.cluster.store import Delete, Put
from drystone_storaged.manager.metrics import manager_metrics
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import insync, peers, until

FOREIGN = ("/pool/x", "/pool/0001/map/zzz", "/pool/0001/else", "/drive/mine", "/drive/1", "/pool/")


async def put(mgr, key: str, value: bytes) -> None:
    await mgr.services.env.store.txn([], [Put(key, value)])


async def delete(mgr, key: str) -> None:
    await mgr.services.env.store.txn([], [Delete(key)])


async def raw(mgr, key: str) -> bytes:
    found = await mgr.services.env.store.get(key)
    assert found is not None
    return found.value


async def issues(mgr) -> str:
    return "\n".join((await mgr.status())["issues"])


@contextlib.asynccontextmanager
async def two_pools(mgr, servers: int = 4):
    """Pools `default` (1) and `other` (2); each has one shard."""
    async with peers(mgr, servers, 1) as made:
        answer = await mgr.http.post("/v1/pools", json={"name": "other", "copies": 3})
        assert answer.status_code == 201, answer.text
        await mgr.services.feed.read()
        yield made


async def members(peer, pool: int) -> list[set[int]]:
    (found,) = [p for p in (await peer.map()).pools if p.id == pool]
    return [set(r.insync) for s in found.shards for r in pgmap.decode_shard(s)]


async def test_foreign_keys_are_named_and_stop_nothing(mgr):
    async with two_pools(mgr) as made:
        before = (await mgr.status())["map_revision"]
        for key in FOREIGN:
            await put(mgr, key, b"\xff garbage")
        status = await mgr.status()
        assert status["map_revision"] == before
        assert status["pgs"]["in_sync"] == status["pgs"]["total"]
        assert "/drive/mine" in await issues(mgr)
        text = manager_metrics(mgr.services).render().decode()
        assert 'drystone_manager_refused_records{kind="foreign"} 6.0' in text
        await made[3].die()
        await until(lambda: _without(made[0], 4), "the drop of the dead")
        assert (
            await mgr.http.post("/v1/pools", json={"name": "p3", "copies": 3})
        ).status_code == 201
        assert len((await mgr.http.get("/v1/drives")).json()["items"]) == 4
        for key in FOREIGN:
            await delete(mgr, key)
        # A map must not get older because rubbish was removed.
        assert (await mgr.status())["map_revision"] > before
        assert "/drive/mine" not in await issues(mgr)


async def _without(peer, drive: int, pool: int = 1) -> bool:
    return all(drive not in found for found in await members(peer, pool))


DAMAGE = [b"", b"{}", b"\xff" * 40, pgmap.encode_shard(())]


@pytest.mark.parametrize("value", [*DAMAGE, None])
async def test_an_unreadable_shard_never_reads_as_an_empty_one(mgr, value):
    async with two_pools(mgr):
        key = keys.shard(1, 0)
        await (put(mgr, key, value) if value is not None else delete(mgr, key))
        state = await read_state(mgr.services.env.store)
        assert set(state.pools) == {2}
        with pytest.raises(DataError) as refused:
            state.pgs()
        assert refused.value.code == "record_damaged"
        for question in (lambda: state.pgs(1), lambda: holders(state, 1)):
            with pytest.raises(DataError):
                question()
        assert state.pgs(2) == state.known_pgs()


async def test_a_shard_whose_groups_have_no_copy_is_unreadable(mgr):
    async with two_pools(mgr):
        good = pgmap.decode_shard(await raw(mgr, keys.shard(1, 0)))
        empty = tuple(pgmap.PgRecord(r.epoch, (), target=r.target) for r in good)
        await put(mgr, keys.shard(1, 0), pgmap.encode_shard(empty))
        assert 1 not in (await read_state(mgr.services.env.store)).pools


@pytest.mark.parametrize("key", [keys.shard(1, 0), keys.pool(1)])
async def test_an_unreadable_pool_keeps_its_last_map_and_the_others_go_on(mgr, key):
    async with two_pools(mgr) as made:
        before = await members(made[0], 1)
        good = await raw(mgr, key)
        await put(mgr, key, b"garbage")
        status = await mgr.status()
        assert status["health"] == "critical"
        assert key in await issues(mgr)
        text = manager_metrics(mgr.services).render().decode()
        assert 'drystone_manager_refused_records{kind="pool"} 1.0' in text
        await made[3].die()
        await until(lambda: _without(made[0], 4, 2), "the drop in the pool that is well")
        assert await members(made[0], 1) == before, "the pool that nobody can read stays as it was"
        await put(mgr, key, good)
        await until(lambda: _without(made[0], 4, 1), "the drop in the pool that is read again")
        assert key not in await issues(mgr)


@pytest.mark.parametrize("key", [keys.shard(1, 0), keys.drive(2)])
async def test_who_follows_the_map_is_told_the_same_as_who_asks(mgr, key):
    async with two_pools(mgr) as made:
        feed = mgr.services.feed
        before = pgmap.decode_map(feed.encoded(await feed.read()))
        await put(mgr, key, b"garbage")
        state = await feed.read()
        shown = await anext(feed.follow(before.revision))
        followed = pgmap.decode_map(mapfeed_encoding(feed, shown))
        assert followed.revision == state.revision > before.revision
        assert (followed.pools, followed.drives) == (before.pools, before.drives)
        assert await made[0].map() == followed


def mapfeed_encoding(feed, state) -> bytes:
    """As if nobody had asked for it before."""
    feed._encoded = (0, b"")
    return feed.encoded(state)


async def test_what_needs_the_unreadable_pool_is_refused(mgr):
    async with two_pools(mgr) as made:
        body = {"name": "v", "size": 1 << 30, "pool": "default"}
        volume = (await mgr.http.post("/v1/volumes", json=body)).json()
        number = int(volume["id"], 16)
        await mgr.http.post("/v1/volumes/v/publish", json={"node": "block-1"})
        await put(mgr, keys.shard(1, 0), b"garbage")
        ask = pb.AttachRequest(volume=number, mode=pb.MODE_READ_WRITE, nonce=5)
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await made[-1].call("Attach", ask)
        assert "record_damaged" in str(error.value) or "cannot be read" in str(error.value)
        forgotten = await mgr.http.delete("/v1/drives/1")
        assert forgotten.json()["code"] in ("record_damaged", "drive_in_use"), forgotten.text
        lost = await mgr.http.post("/v1/pools/default/pgs/0/mark-lost")
        assert lost.status_code >= 400
        with pytest.raises(DrystoneError) as refused:
            await mgr.services.membership.mark_lost(PgRef(1, 0))
        assert refused.value.code == "record_damaged"
        await made[3].die()
        await until(lambda: _without(made[0], 4, 2), "the drop elsewhere")
        gone = await mgr.http.delete("/v1/nodes/node-4?force=true")
        assert gone.json()["code"] == "record_damaged", gone.text


async def test_a_fence_in_an_unreadable_pool_is_never_proven(mgr):
    async with two_pools(mgr) as made:
        body = {"name": "v", "size": 1 << 30, "pool": "default"}
        number = int((await mgr.http.post("/v1/volumes", json=body)).json()["id"], 16)
        await mgr.http.post("/v1/volumes/v/publish", json={"node": "block-1"})
        ask = pb.AttachRequest(volume=number, mode=pb.MODE_READ_WRITE, nonce=5)
        await made[-1].call("Attach", ask)
        mgr.services.fence._proof_s = 0.0
        await put(mgr, keys.shard(1, 0), b"garbage")
        answer = await mgr.http.post("/v1/volumes/v/fence")
        assert answer.json()["code"] == "fence_unproven", answer.text


async def test_a_manager_that_never_read_the_pool_tells_no_map_without_it(mgr):
    async with two_pools(mgr) as made:
        good = await raw(mgr, keys.shard(1, 0))
        await put(mgr, keys.shard(1, 0), b"garbage")
        mgr.services.feed.forget()  # as one that was just elected
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await made[0].map()
        assert error.value.code() is grpc.StatusCode.ABORTED, "a daemon asks again and goes on"
        assert keys.shard(1, 0) in await issues(mgr)
        await put(mgr, keys.shard(1, 0), good)
        assert len((await made[0].map()).pools) == 2


async def test_an_unreadable_drive_record_is_nobody_who_may_be_dropped_or_lost(mgr):
    async with two_pools(mgr) as made:
        await put(mgr, keys.drive(2), b"garbage")
        assert keys.drive(2) in await issues(mgr)
        shown = await made[0].map()
        assert {d.id for d in shown.drives} == {1, 2, 3, 4}, "its address is as it was"
        await made[1].die()
        await made[3].die()
        await until(lambda: _without(made[0], 4), "the drop of who is known")
        assert any(2 in found for found in insync(await made[0].map()))
        held = [ref for ref, pg in (await mgr.services.feed.read()).pgs().items() if 2 in pg.insync]
        with pytest.raises(DrystoneError) as refused:
            await mgr.services.membership.mark_lost(held[0])
        assert refused.value.code in ("record_damaged", "pg_not_lost")
        with pytest.raises(DrystoneError):
            await mgr.services.nodes.forget("node-2")
        # It may lie on any device, and what may be on it is no reason to take that one away.
        (node,) = [n for n in await mgr.services.nodes.list("server") if n.name == "node-2"]
        with pytest.raises(DrystoneError) as kept:
            await mgr.services.devices.remove(node, "disk-1")
        assert kept.value.code == "record_damaged"
        evidence = Evidence("a test", mgr.services.env.monotonic())
        done = await mgr.services.membership.drop([1], evidence, live=frozenset([3]))
        assert all(3 in pg.insync for pg in (await _pgs(mgr, done.changed)))


async def _pgs(mgr, refs):
    pgs = (await mgr.services.feed.read()).pgs()
    return [pgs[ref] for ref in refs]
