"""A manager that has seen a newer state of the store leads no older one."""

from __future__ import annotations

import json

import pytest

from drystone_common.errors import DataError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.store import Put
from drystone_storaged.manager import known_revision
from tests.storaged.manager_env import until
from tests.storaged.managers_env import cluster, depose

AHEAD = 1_000_000


@pytest.fixture(autouse=True)
def _timing(monkeypatch, patient_leases):
    monkeypatch.setattr(known_revision, "SAVE_S", 0.05)


def noted(made, name: str) -> dict:
    file = made.folder / name / "revision.json"
    return json.loads(file.read_text()) if file.exists() else {}


async def test_a_manager_that_noted_a_newer_state_does_not_start_on_an_older_one(
    tmp_path, etcd, capsys
):
    async with cluster(tmp_path, etcd.endpoints, ("m1",)) as made:
        store = made.managers["m1"].services.env.store
        await until(lambda: noted(made, "m1"), "the note")
        note = noted(made, "m1")
        assert 0 < note["revision"] <= await store.revision()
        (tmp_path / "m2").mkdir()
        file = tmp_path / "m2" / "revision.json"
        file.write_text(json.dumps(note | {"revision": AHEAD}))
        with pytest.raises(DataError) as caught:
            await made.start("m2")
        assert caught.value.code == "store_too_old"
        assert "newest store" in (caught.value.hint or "")
        # A note of another cluster, or a damaged one, says nothing.
        for text in (json.dumps(note | {"revision": AHEAD, "cluster": "other"}), "{", "[]"):
            file.write_text(text)
            known = known_revision.KnownRevision(
                store, made.managers["m1"].services.leadership, note["cluster"], file.parent
            )
            await known.check()
        # Without a note there is nothing to say; one that cannot be read is told.
        assert capsys.readouterr().out.count("the revision seen last cannot be read") == 1


async def test_a_recovered_store_begins_a_new_count(tmp_path, etcd):
    async with cluster(tmp_path, etcd.endpoints, ("m1",)) as made:
        services = made.managers["m1"].services
        uuid, store = services.env.cluster.uuid, services.env.store
        folder = tmp_path / "x"
        folder.mkdir()
        (folder / "revision.json").write_text(
            json.dumps({"cluster": uuid, "incarnation": 1, "revision": AHEAD})
        )
        known = known_revision.KnownRevision(store, services.leadership, uuid, folder)
        with pytest.raises(DataError):
            await known.check()
        await store.txn([], [Put(keys.INCARNATION, b"2")])
        store.highest_revision = AHEAD  # of the count before
        await known.check()
        await known.check()


async def test_a_standby_that_has_seen_more_does_not_take_over(tmp_path, etcd):
    async with cluster(tmp_path, etcd.endpoints) as made:
        leader = await made.leader()
        (standby,) = [m for m in made.managers.values() if m is not leader]
        standby.services.env.store.highest_revision = AHEAD
        await depose(leader)
        # The one that has seen nothing newer is the only one that can.
        await until(lambda: not leader.services.leadership.leads, "the end of its lease")
        await until(lambda: leader.services.leadership.leads, "its next election")
        with pytest.raises(DataError) as caught:
            await standby.services.leadership.before_claim[0]()
        assert caught.value.code == "store_too_old"


async def test_a_leader_that_finds_an_older_store_stops_leading(tmp_path, etcd):
    async with cluster(tmp_path, etcd.endpoints, ("m1",)) as made:
        leader = await made.leader()
        leader.services.env.store.highest_revision = AHEAD
        await until(lambda: not leader.services.leadership.leads, "its end")
        answer = await leader.http.get("/v1/nodes")
        assert answer.json()["code"] == "not_leader"
