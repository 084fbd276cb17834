"""When a node may be taken away, what that holds up, and how it ends."""

from __future__ import annotations

import dataclasses

import pytest

from drystone_storaged.cluster import keys
from drystone_storaged.cluster.maintenance import Cluster, refusal, standing
from drystone_storaged.cluster.membership_service import Evidence
from drystone_storaged.cluster.pools import PoolSpec
from drystone_storaged.cluster.records import DriveState, Maintenance, Voters
from drystone_storaged.cluster.store import Put
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.cluster_env import cluster
from tests.storaged.manager_env import manager, peers, until

NOW = 1_000_000.0


async def asked(env, *, alive=None, records=None, node=0, state=None):
    """The decision about one node of a cluster in which everybody answers."""
    servers = await env.nodes.list("server")
    servers.sort(key=lambda each: each.name)
    uuids = tuple(n.uuid for n in servers)
    living = frozenset(uuids if alive is None else [uuids[i] for i in alive])
    around = Cluster(servers, Voters(1, uuids), living, records or {}, NOW)
    return refusal(state or await env.state(), around, servers[node])


def without(state, *drives):
    """The map with these drives down."""
    found = dict(state.drives)
    for number in drives:
        found[number] = dataclasses.replace(found[number], state=DriveState.DOWN)
    return dataclasses.replace(state, drives=found)


async def test_a_node_of_a_whole_cluster_may_go(tmp_path):
    async with cluster(tmp_path, 3) as env:
        assert await asked(env) is None


async def test_the_only_live_copy_of_something_stays_whatever_is_forced(tmp_path):
    async with cluster(tmp_path, 3) as env:
        found = await asked(env, state=without(await env.state(), 2, 3))
        assert (found.why, found.forcible) == ("last_copy", False)
        assert found.count == 64
        assert found.example == "default/0"


async def test_what_would_make_writes_wait_is_refused_whatever_is_forced(tmp_path):
    async with cluster(tmp_path, 3) as env:
        found = await asked(env, state=without(await env.state(), 2))
        assert (found.why, found.forcible) == ("min_insync", False)


async def test_a_majority_of_voters_stays(tmp_path):
    async with cluster(tmp_path, 3, pool=False) as env:
        found = await asked(env, alive=[0, 1])
        assert (found.why, found.forcible) == ("voters", False)


async def test_a_second_node_at_the_same_time_is_a_risk_that_can_be_taken(tmp_path):
    async with cluster(tmp_path, 5) as env:
        uuid = sorted((n.name, n.uuid) for n in await env.nodes.list("server"))[4][1]
        record = Maintenance(uuid, int(NOW) + 60)
        found = await asked(env, records={uuid: record})
        assert (found.why, found.forcible) == ("redundancy", True)
        assert "node-5 is in maintenance already" in found.text
        over = dataclasses.replace(record, until_s=int(NOW))
        assert await asked(env, records={uuid: over}) is None


async def test_a_node_that_is_away_elsewhere_is_a_risk_that_can_be_taken(tmp_path):
    async with cluster(tmp_path, 5) as env:
        found = await asked(env, alive=[0, 1, 2, 3])
        assert (found.why, found.forcible) == ("redundancy", True)
        assert "node-5 is away already" in found.text


async def test_a_single_copy_that_would_be_left_is_a_risk_that_can_be_taken(tmp_path):
    async with cluster(tmp_path, 3, pool=False) as env:
        await env.pools.create(PoolSpec("two", 2, 1))
        found = await asked(env)
        assert (found.why, found.forcible) == ("redundancy", True)


async def test_a_node_that_holds_nothing_in_sync_may_stay_away(tmp_path):
    async with cluster(tmp_path, 3) as env:
        await env.membership.drop([1], Evidence("a test", env.clock()))
        assert await asked(env, alive=[1, 2]) is None


async def test_a_record_that_cannot_be_read_announces_nothing(tmp_path):
    async with cluster(tmp_path, 1) as env:
        await env.store.txn([], [Put(keys.maintenance("ab"), b"garbage")])
        assert await standing(env.store) == {}


BODY = {"for_s": 600, "reason": "new kernel"}
PATH = "/v1/nodes/node-1/maintenance"


async def test_a_maintenance_is_granted_shown_prolonged_and_ended(mgr):
    async with peers(mgr, 3, 1):
        made = await mgr.http.post(PATH, json=BODY)
        assert made.status_code == 201, made.text
        shown = (await mgr.http.get("/v1/nodes/node-1")).json()["maintenance"]
        assert made.json() == {"node": "node-1", **shown}
        assert shown["reason"] == "new kernel"
        assert (shown["overdue"], shown["ended"]) == (False, False)
        longer = await mgr.http.post(PATH, json=BODY | {"for_s": 1200})
        assert longer.status_code == 200
        assert longer.json()["until_s"] > shown["until_s"]
        nodes = {n["name"]: n["maintenance"] for n in (await mgr.status())["nodes"]}
        assert nodes["node-1"]["until_s"] == longer.json()["until_s"]
        assert nodes["node-2"] is None
        assert (await mgr.http.delete(PATH)).status_code == 204

        async def gone():
            return (await mgr.http.get("/v1/nodes/node-1")).json()["maintenance"] is None

        await until(gone, "the end of a maintenance whose node is there")
        assert (await mgr.http.delete(PATH)).status_code == 204


async def test_a_refusal_says_why_and_only_a_risk_can_be_forced(mgr):
    async with peers(mgr, 5, 0) as made:
        assert (await mgr.http.post(PATH, json=BODY)).status_code == 201
        second = "/v1/nodes/node-2/maintenance"
        refused = await mgr.http.post(second, json=BODY)
        assert refused.status_code == 409
        assert refused.json()["code"] == "maintenance_unsafe"
        assert refused.json()["details"]["forcible"] is True
        assert (await mgr.http.post(second, json=BODY | {"force": True})).status_code == 201
        for peer in made[2:]:
            await peer.ready(pb.DRIVE_STATE_CLOSED)
        refused = await mgr.http.post(PATH, json=BODY | {"force": True})
        assert refused.json()["details"]["why"] in ("last_copy", "min_insync")


async def test_a_maintenance_of_a_node_that_is_not_back_stays_until_it_is(tmp_path):
    clock = {"now": NOW}
    async with manager(tmp_path) as mgr, peers(mgr, 3, 0) as made:
        desk = mgr.services.maintenance
        desk._deps = dataclasses.replace(desk._deps, wall=lambda: clock["now"])
        assert (await mgr.http.post(PATH, json=BODY)).status_code == 201
        await made[0].ready(pb.DRIVE_STATE_CLOSED)
        await made[0].disconnect()
        await until(lambda: mgr.services.sessions.get(("server", made[0].uuid.hex())) is None,
                    "the session's end")  # fmt: skip
        clock["now"] += 601
        assert await desk.tidy(), "its copies are still away"
        await made[0].connect(instance=2)
        await made[0].open_drive(nonce=8, previous=7)

        async def promoted():
            pgs = (await mgr.services.feed.read()).known_pgs()
            joining = [
                pb.Pg(pool=ref.pool, pg=ref.pg, epoch=r.epoch)
                for ref, r in pgs.items()
                if r.joining
            ]
            if joining:
                request = pb.CopyCompleteRequest(drive=1, nonce=8, pgs=joining)
                await made[0].call("CopyComplete", request)
            return not await desk.tidy()

        await until(promoted, "the end, when everything is back")


@pytest.mark.parametrize("for_s", [0, 59, 604_801, -1])
async def test_a_length_that_makes_no_sense_is_refused(mgr, for_s):
    async with peers(mgr, 3, 0):
        refused = await mgr.http.post(PATH, json={"for_s": for_s})
        assert refused.status_code == 400
        assert refused.json()["code"] == "invalid_duration"


async def test_a_reader_announces_nothing_and_a_consuming_node_holds_nothing(mgr):
    async with peers(mgr, 1, 1):
        read = await mgr.http.post(PATH, json=BODY, headers=mgr.auth("read"))
        assert read.status_code == 403
        other = await mgr.http.post("/v1/nodes/block-1/maintenance", json=BODY)
        assert other.json()["code"] == "not_a_storage_node"


async def test_forgetting_a_node_forgets_its_maintenance(tmp_path):
    async with cluster(tmp_path, 2, pool=False) as env:
        (node,) = [n for n in await env.nodes.list("server") if n.name == "node-1"]
        await env.store.txn([], [Put(keys.maintenance(node.uuid), b"{}")])
        await env.nodes.forget("node-1")
        assert await env.store.get(keys.maintenance(node.uuid)) is None
