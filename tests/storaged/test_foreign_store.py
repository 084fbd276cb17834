"""A metadata store with somebody else's keys: nothing is founded on them, and nothing stops."""

from __future__ import annotations

import json
import uuid

import pytest

from drystone_common.errors import DataError
from drystone_storaged.cluster import keys, store_etcd
from drystone_storaged.cluster.bootstrap import ensure_cluster
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.etcd_client import EtcdConfig
from drystone_storaged.cluster.records import Cluster
from drystone_storaged.cluster.store import Compare, Delete, Put
from drystone_storaged.cluster.store_etcd import EtcdStore
from drystone_storaged.cluster.store_sqlite import SqliteStore
from tests.storaged.managers_env import cluster

MASTER = bytes(range(32))


@pytest.fixture
async def store(tmp_path):
    opened = await SqliteStore.open(tmp_path / "m.db")
    yield opened
    await opened.close()


async def test_no_cluster_is_founded_where_somebody_elses_keys_are(store):
    await store.txn([], [Put("/registry/pods/x", b"theirs")])
    with pytest.raises(DataError) as refused:
        await ensure_cluster(store, uuid.UUID(int=5), 0, MASTER)
    assert refused.value.code == "store_foreign"
    assert "/registry/pods/x" in refused.value.message
    items = (await store.range("/")).items
    assert [item.key for item in items] == ["/registry/pods/x"], "nothing was written"


async def test_the_rest_of_a_cluster_that_lost_its_identity_is_not_founded_over(store):
    made = await ensure_cluster(store, uuid.UUID(int=5), 0, MASTER)
    assert await ensure_cluster(store, uuid.UUID(int=6), 0, MASTER) == made
    await store.txn([], [Delete(keys.CLUSTER)])
    with pytest.raises(DataError) as refused:
        await ensure_cluster(store, uuid.UUID(int=6), 0, MASTER)
    assert refused.value.code == "store_foreign"


async def test_a_cluster_that_another_manager_founds_meanwhile_is_ours_too(store):
    class Slow:
        """Another manager is faster: its keys come between the two looks."""

        def __getattr__(self, name):
            return getattr(store, name)

        async def range(self, prefix, **options):
            other = [Put(keys.CLUSTER, encode(Cluster("x", 1)))]
            await store.txn([Compare.absent(keys.CLUSTER)], other)
            return await store.range(prefix, **options)

    assert (await ensure_cluster(Slow(), uuid.UUID(int=6), 0, MASTER)).uuid == "x"


async def test_a_key_of_any_bytes_stops_no_manager_and_is_named(tmp_path, etcd, monkeypatch):
    monkeypatch.setattr(store_etcd, "check_limits", lambda *_: None)
    async with cluster(tmp_path, etcd.endpoints, ("m1",)) as made:
        leader = await made.leader()
        raw = await EtcdStore.open(EtcdConfig(etcd.endpoints, made.namespace))
        try:
            strange = ["/pool/\udcc3\udca9", "/drive/\udcff"]
            await raw.txn([], [Put(key, b"theirs") for key in strange])
            found = await raw.range("/pool/", limit=1)
            assert found.items[0].key == strange[0]
            after = await raw.range("/pool/", after=strange[0], limit=1)
            assert strange[0] not in [item.key for item in after.items]
        finally:
            await raw.close()
        status = await leader.status()
        (problem,) = [p for p in status["problems"] if p["code"] == "foreign_keys"]
        assert "2 keys in the metadata store are none of this cluster's" in problem["text"]
        assert json.dumps(status, ensure_ascii=False).encode(), "it can be told"
        assert leader.services.leadership.leads
