"""Several managers on one etcd: one leads, the others wait, and who is deposed does nothing."""

from __future__ import annotations

import asyncio
import re

import grpc
import pytest

from drystone_common.errors import DataError
from drystone_storaged.cluster import keys
from drystone_storaged.manager.app import running
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import GIB, Manager, Peer, insync, peers, until
from tests.storaged.managers_env import cluster, depose, move

CALLS = pb.DESCRIPTOR.services_by_name["Control"].methods


pytestmark = pytest.mark.usefixtures("patient_leases")


@pytest.fixture
async def two(tmp_path, etcd):
    async with cluster(tmp_path, etcd.endpoints) as made:
        yield made


async def roles(two) -> tuple[Manager, Manager]:
    """The leader and the standby."""
    leader = await two.leader()
    (other,) = [m for m in two.managers.values() if m is not leader]
    return leader, other


async def test_a_standby_says_what_it_is_and_refuses_every_other_call(two):
    leader, standby = await roles(two)
    health = (await standby.http.get("/v1/health")).json()
    assert (health["role"], health["leader"], health["status"]) == ("standby", False, "ok")
    assert health["leader_name"] == leader.services.env.name != health["manager"]
    led = (await leader.http.get("/v1/health")).json()
    assert (led["role"], led["leader"]) == ("leader", True)

    paths = (await standby.http.get("/openapi.json")).json()["paths"]
    asked = 0
    for path, methods in paths.items():
        for method in methods:
            if path == "/v1/health":
                continue
            url = re.sub(r"\{[^}]*\}", "1", path)
            answer = await standby.http.request(method, url, headers=standby.auth("read"))
            if answer.status_code == 403:  # who may not is told so first
                answer = await standby.http.request(method, url)
            assert answer.status_code == 503, (method, path, answer.text)
            assert answer.json()["code"] == "not_leader"
            assert "another manager" in answer.json()["hint"]
            assert answer.headers["content-type"] == "application/problem+json"
            asked += 1
    assert asked > 25
    refused = await standby.http.get("/v1/status", headers={"Authorization": "Bearer wrong"})
    assert refused.status_code == 401


async def test_a_standby_refuses_every_control_call_so_that_the_caller_goes_on(two):
    _, standby = await roles(two)
    peer = Peer(standby, "node-1", "server")
    for method in CALLS:
        request = getattr(pb, method.input_type.name)()
        call = getattr(peer.stub, method.name)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(call, request, method)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE, method.name
        assert ("drystone-code", "not_leader") in list(caught.value.trailing_metadata())
    await peer.close()


async def ask(call, request, method) -> None:
    if method.name == "Session":
        await to_the_end(call(iter([request])))
    elif method.name == "MapStream":
        await to_the_end(call(request))
    else:
        await call(request, timeout=20)


async def to_the_end(stream) -> None:
    async with asyncio.timeout(20):
        async for _ in stream:
            pass


async def test_another_master_key_is_refused_and_told_how_to_cure_it(two, tmp_path):
    other = tmp_path / "other.key"
    other.write_text("22" * 32 + "\n")
    with pytest.raises(DataError) as caught:
        await two.start("m3", master_key_file=other)
    assert caught.value.code == "master_mismatch"
    assert "master_key_file" in (caught.value.hint or "")


@pytest.mark.parametrize("what", ["master_key_file", "tokens_file"])
@pytest.mark.parametrize("founded", [True, False])
async def test_secrets_are_never_made_for_a_shared_store(tmp_path, etcd, what, founded):
    async with cluster(tmp_path, etcd.endpoints, ("m1",) if founded else ()) as made:
        missing = tmp_path / "nothing"
        with pytest.raises(DataError) as caught:
            await made.start("m2", **{what: missing})
        assert caught.value.code in ("master_missing", "tokens_missing")
        assert caught.value.hint
        assert not missing.exists()


async def test_an_orderly_stop_hands_over_without_waiting_for_the_lease(tmp_path, etcd):
    async with cluster(tmp_path, etcd.endpoints, ()) as made:
        async with running(made.settings("m1")) as first:
            assert first.services.leadership.leads
            second = await made.start("m2")
            assert not second.services.leadership.leads
        assert await second.services.leadership.leader() in ("", "m2"), "nothing is left of m1"
        await until(lambda: second.services.leadership.leads, "the second leads")


async def suspicion_of(manager: Manager) -> list[str]:
    return [kv.key for kv in (await manager.services.env.store.range(keys.SUSPECTS)).items]


async def test_a_deposed_leader_sends_everybody_away_and_the_next_begins_fresh(two):
    leader, standby = await roles(two)
    async with peers(leader, 3, 1) as made:
        servers, client = made[:3], made[3]
        services = leader.services
        stream = aiter(client.stub.MapStream(pb.MapStreamRequest(), metadata=client.metadata))
        assert (await anext(stream)).map
        services.stats.report(pb.DriveStatus(drive=1, used_bytes=5))
        services.silence._tracker.report(servers[0].uuid.hex(), [servers[2].uuid.hex()], 1e12)
        await depose(leader)
        await until(lambda: standby.services.leadership.leads, "the standby leads")
        await until(lambda: not services.leadership.leads, "the old one knows")

        assert not services.sessions.all("server")
        assert not services.sessions.all("client")
        for peer in made:
            session = peer.session
            assert session is not None
            await until(session.done, "the end of the session")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await to_the_end(stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert services.stats.get(1) is None

        # Everything works at the new one: an attach, and a drop that it has to decide by itself.
        for peer in made:
            await move(peer, standby)
        volume = await standby.http.post("/v1/volumes", json={"name": "v", "size": GIB})
        assert volume.status_code == 201, volume.text
        await standby.http.post("/v1/volumes/v/publish", json={"node": "block-1"})
        number = int(volume.json()["id"], 16)
        request = pb.AttachRequest(volume=number, mode=pb.MODE_READ_WRITE, nonce=5)
        assert (await client.call("Attach", request)).generation == 1
        await servers[2].die()

        async def dropped() -> bool:
            found = insync(await client.map())
            return all(servers[2].drive not in drives for drives in found)

        await until(dropped, "the drop of the dead server")

        # And back again: the first one begins as if it had never led.
        await depose(standby)
        await until(lambda: leader.services.leadership.leads, "the first leads again")
        assert not services.silence._tracker._reports
        assert services.stats.get(1) is None
        for peer in (servers[0], servers[1], client):
            await move(peer, leader)
        assert (await client.call("Attach", request)).generation == 1, "the same nonce"
        seen = {n["name"]: n["connected"] for n in (await leader.status())["nodes"]}
        assert seen == {"node-1": True, "node-2": True, "node-3": False, "block-1": True}


async def test_a_leader_that_does_not_know_it_is_deposed_changes_nothing(two, monkeypatch):
    leader, standby = await roles(two)
    # It is frozen, in effect: it neither keeps its lease nor notices that it has ended. There are
    # no nodes, so that it is this call that meets the guard first, and no loop of its own.
    monkeypatch.setattr(leader.services.env.store, "lease_keepalive", never)
    monkeypatch.setattr(leader.services.leadership, "_ttl_s", 3600.0)
    await depose(leader)
    await until(lambda: standby.services.leadership.leads, "the standby leads")
    assert leader.services.leadership.leads, "it believes to lead"
    answer = await leader.http.post("/v1/join-tokens", json={"role": "client"})
    assert (answer.status_code, answer.json()["code"]) == (503, "leadership_lost")
    assert not leader.services.leadership.leads, "now it knows"
    assert (await leader.http.get("/v1/volumes")).json()["code"] == "not_leader"
    assert not (await standby.services.env.store.range(keys.JOIN_TOKENS)).items
    assert (await standby.http.post("/v1/join-tokens", json={"role": "client"})).status_code == 201


async def never(_lease: int) -> None:
    return None


async def test_a_suspicion_of_the_old_leader_is_withdrawn_by_the_new_one(two):
    leader, standby = await roles(two)
    async with peers(leader, 3, 0) as servers:
        for peer in servers:
            peer.heard = {peer.uuid for peer in servers}  # nobody promises: it stays undecided
        for voter in servers[:2]:
            await voter.call("ReportSilence", pb.ReportSilenceRequest(silent=[servers[2].uuid]))

        async def stands() -> bool:
            return bool(await suspicion_of(leader))

        await until(stands, "the suspicion")
        await depose(leader)
        await until(lambda: standby.services.leadership.leads, "the standby leads")
        assert await suspicion_of(standby) == []
        assert all(len(drives) == 3 for drives in insync(await current_map(standby)))


async def current_map(manager: Manager):
    return (await manager.services.feed.read()).to_map()


async def test_three_managers_started_at_once_found_one_cluster(tmp_path, etcd):
    async with cluster(tmp_path, etcd.endpoints, ()) as made:
        await asyncio.gather(*(made.start(name) for name in ("m1", "m2", "m3")))
        leader = await made.leader()
        identities = {m.services.env.cluster.uuid for m in made.managers.values()}
        assert len(identities) == 1
        assert (await leader.status())["health"]


async def test_a_task_goes_on_at_the_next_leader(two):
    leader, standby = await roles(two)
    async with peers(leader, 3, 0) as servers:
        for peer in servers:
            peer.answers = False
        started = await leader.http.post(f"/v1/drives/{servers[0].drive}/scrub")
        assert started.status_code == 202
        await depose(leader)
        await until(lambda: standby.services.leadership.leads, "the standby leads")
        servers[0].answers = True
        await move(servers[0], standby)

        async def done() -> bool:
            task = (await standby.http.get(f"/v1/tasks/{started.json()['id']}")).json()
            assert task["state"] != "failed"
            return task["state"] == "done"

        await until(done, "the end of the scrub")
