"""Slow policies over real peers: re-creation, evacuation, balance."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace

import pytest

from drystone_storaged.cluster import pgmap
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import Manager, Peer, manager, peers, until


@pytest.fixture
async def mgr(tmp_path):
    async with manager(tmp_path) as started:
        yield started


async def records(peer: Peer) -> list[pgmap.PgRecord]:
    pools = (await peer.map()).pools
    return [r for shard in pools[0].shards for r in pgmap.decode_shard(shard)]


@contextlib.asynccontextmanager
async def copying(made: list[Peer]):
    """Every server completes each copy that it is asked for, at once."""

    async def run() -> None:
        while True:
            servers = {p.drive: p for p in made if p.role == "server"}
            wanted: dict[int, list[pb.Pg]] = {}
            for number, record in enumerate(await records(made[0])):
                for joiner in record.joining:
                    pg = pb.Pg(pool=1, pg=number, epoch=record.epoch)
                    wanted.setdefault(joiner.drive, []).append(pg)
            for drive, pgs in wanted.items():
                peer = servers[drive]
                if peer.session is not None:
                    request = pb.CopyCompleteRequest(drive=drive, nonce=peer.nonce, pgs=pgs)
                    await peer.call("CopyComplete", request)
            await asyncio.sleep(0.02)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def add_server(mgr: Manager, made: list[Peer]) -> Peer:
    """One more node with a drive; whoever made the others closes it."""
    number = sum(p.role == "server" for p in made) + 1
    peer = Peer(mgr, f"node-{number}", "server")
    made.append(peer)
    await peer.register(await mgr.token("server", peer.name))
    await peer.connect()
    await peer.open_drive()
    return peer


def jump(mgr: Manager, seconds: float) -> None:
    """Both clocks of the upkeep go on by so much."""
    upkeep = mgr.services.upkeep
    deps = upkeep._deps
    upkeep._deps = replace(
        deps,
        wall=lambda: deps.wall() + seconds,
        monotonic=lambda: deps.monotonic() + seconds,
    )
    upkeep._downs._monotonic = upkeep._deps.monotonic
    upkeep.bell.ring()


def shares(found: list[pgmap.PgRecord]) -> Counter[int]:
    return Counter(d for r in found for d in r.insync)


def is_whole(found: list[pgmap.PgRecord], copies: int = 3) -> bool:
    return all(
        len(r.insync) == copies and set(r.insync) == set(r.target) and not r.joining and not r.out
        for r in found
    )


async def drive(mgr: Manager, number: int) -> dict:
    return (await mgr.http.get(f"/v1/drives/{number}")).json()


async def test_a_drive_that_stays_out_is_re_created_on_the_others_and_not_before(mgr):
    async with peers(mgr, 4, 0) as made, copying(made):
        lost = made[3]
        await lost.die()

        async def dropped():
            found = await records(made[0])
            return all(lost.drive not in r.insync for r in found)

        await until(dropped, "the drop")
        before = await records(made[0])
        assert any(lost.drive in r.target for r in before), "failure is not a move"
        await mgr.services.upkeep.look()  # the down drive is seen
        jump(mgr, 590)
        await mgr.services.upkeep.look()
        assert [r.target for r in await records(made[0])] == [r.target for r in before]
        jump(mgr, 20)

        async def whole():
            return is_whole(await records(made[0]))

        await until(whole, "three copies without the lost drive")
        assert shares(await records(made[0])) == {1: 64, 2: 64, 3: 64}


async def test_a_drive_without_another_domain_keeps_its_place(mgr):
    async with peers(mgr, 3, 0) as made:
        await made[2].die()

        async def dropped():
            return all(3 not in r.insync for r in await records(made[0]))

        await until(dropped, "the drop")
        await mgr.services.upkeep.look()  # the down drive is seen
        jump(mgr, 1000)
        await mgr.services.upkeep.look()
        assert all(set(r.target) == {1, 2, 3} for r in await records(made[0]))
        assert len(mgr.services.upkeep.outlook.stuck) == 64
        found = {p["code"]: p["text"] for p in (await mgr.status())["problems"]}
        assert "64 PGs of pool default" in found["no_other_domain"]
        # An ejected one is told the same: three nodes cannot hold a third copy without it.
        await mgr.services.health.edit(3, lambda now: replace(now, held=True, ejected=True))
        ejected = await problem(mgr, "drive_ejected")
        assert ejected["doing"].startswith("nothing of it is copied elsewhere: 64 PGs wait, no ")
        await mgr.http.patch("/v1/pools/default", json={"out_time_s": 0})
        ejected = await problem(mgr, "drive_ejected")
        assert "64 PGs wait for a person (`out_time` 0)" in ejected["doing"]


async def test_an_ejected_drive_whose_places_went_to_others_says_so(mgr):
    async with peers(mgr, 4, 0) as made, copying(made):
        await made[3].die()

        async def dropped():
            return all(4 not in r.insync for r in await records(made[0]))

        await until(dropped, "the drop")
        await mgr.services.health.edit(4, lambda now: replace(now, held=True, ejected=True))
        assert "copied to other drives, where" in (await problem(mgr, "drive_ejected"))["doing"]

        async def moved():
            mgr.services.upkeep.bell.ring()
            return shares(await records(made[0])) == {1: 64, 2: 64, 3: 64}

        await until(moved, "its places with the others")
        told = (await problem(mgr, "drive_ejected"))["doing"]
        assert told == "the places that it had are given to other drives"


async def test_while_data_waits_nobody_is_told_to_forget_a_node(mgr):
    async with peers(mgr, 3, 0) as made:

        async def alone():
            return all(r.insync == (1,) for r in await records(made[0]))

        for peer in made[1:]:
            await peer.die()
        await until(alone, "the drops")
        await mgr.services.upkeep.look()  # the down drives are seen
        await made[0].die()

        async def waits():
            found = {p["code"] for p in (await mgr.status())["problems"]}
            return {"pgs_unavailable", "node_away"} <= found

        await until(waits, "data that waits")
        jump(mgr, 1000)
        await mgr.services.upkeep.look()
        assert mgr.services.upkeep.outlook.held
        todo = (await problem(mgr, "recreation_held"))["todo"]
        assert "(node-1, node-2, node-3)" in todo
        assert "quorum-lost" in todo
        assert "forget" not in "".join(p["todo"] for p in (await mgr.status())["problems"])


async def problem(mgr: Manager, code: str) -> dict:
    found = (await mgr.status())["problems"]
    return next(each for each in found if each["code"] == code)


async def test_a_new_drive_gets_its_share_by_itself(mgr):
    async with peers(mgr, 3, 0, pg_count=16) as made, copying(made):
        await add_server(mgr, made)

        async def balanced():
            found = await records(made[0])
            return is_whole(found) and shares(found)[4] >= 11

        await until(balanced, "a quarter of all copies on the new drive")
        found = shares(await records(made[0]))
        assert max(found.values()) - min(found.values()) <= 2
        assert any(c.WhichOneof("kind") == "quiesce" for p in made[:3] for c in p.commands)

        async def told():
            pool = (await mgr.http.get("/v1/pools/default")).json()
            return pool["moves"] == {"left": 0, "running": 0}

        await until(told, "nothing is left to move, as of the next look")


async def test_a_pool_that_is_balanced_by_hand_waits_until_somebody_asks(mgr):
    async with peers(mgr, 3, 0, pg_count=16) as made, copying(made):
        answer = await mgr.http.patch("/v1/pools/default", json={"rebalance": "manual"})
        assert answer.json()["rebalance"] == "manual"
        await add_server(mgr, made)
        await mgr.services.upkeep.look()
        planned = await mgr.http.post("/v1/pools/default/rebalance?plan=true")
        assert planned.status_code == 200, planned.text
        gains = {d["drive"]: (d["gains"], d["loses"]) for d in planned.json()["drives"]}
        assert gains[4] == (planned.json()["moves"], 0)
        assert 4 not in shares(await records(made[0])), "a plan changes nothing"
        task = (await mgr.http.post("/v1/pools/default/rebalance")).json()
        assert task["kind"] == "rebalance"

        async def done():
            return (await mgr.http.get(f"/v1/tasks/{task['id']}")).json()["state"] == "done"

        await until(done, "the task's end")
        found = await records(made[0])
        assert is_whole(found)
        assert shares(found)[4] >= 11


async def test_an_evacuated_drive_holds_nothing_and_can_be_removed(mgr):
    async with peers(mgr, 4, 0, pg_count=16) as made, copying(made):
        answer = await mgr.http.post("/v1/drives/2/evacuate")
        assert (answer.status_code, answer.json()["evacuating"]) == (200, True), answer.text
        again = await mgr.http.post("/v1/drives/2/evacuate")
        assert again.status_code == 200

        async def empty():
            return (await drive(mgr, 2))["held"] == 0

        await until(empty, "an empty drive")
        assert is_whole(await records(made[0]))
        assert (await drive(mgr, 2))["state"] == "up", "it serves until the end"
        path = "/v1/nodes/node-2/drives/"
        removed = await mgr.http.delete(f"{path}{(await drive(mgr, 2))['device'] or 'none'}")
        assert removed.status_code != 409, removed.text
        kept = await mgr.http.delete("/v1/drives/2/evacuate")
        assert (kept.status_code, kept.json()["evacuating"]) == (200, False)


async def test_a_drive_whose_data_can_go_nowhere_is_not_emptied(mgr):
    async with peers(mgr, 3, 0) as made:
        answer = await mgr.http.post("/v1/drives/2/evacuate")
        assert (answer.status_code, answer.json()["code"]) == (409, "no_room")
        assert "pool default" in answer.json()["detail"]
        answer = await mgr.http.post("/v1/nodes/node-2/evacuate")
        assert answer.json()["code"] == "no_room"
        assert not (await drive(mgr, 2))["evacuating"]
        assert all(set(r.target) == {1, 2, 3} for r in await records(made[0]))
        assert (await mgr.http.post("/v1/drives/9/evacuate")).status_code == 404
        auth = mgr.auth("operate")
        assert (await mgr.http.post("/v1/drives/2/evacuate", headers=auth)).status_code == 403


async def test_an_evacuation_that_lost_its_room_goes_on_serving_and_is_told_of(mgr):
    async with peers(mgr, 4, 0) as made:
        made[0].answers = made[1].answers = False
        await mgr.http.post("/v1/drives/2/evacuate")
        await made[3].ready(pb.DRIVE_STATE_FAILED)

        async def told():
            return "evacuation_stuck" in {p["code"] for p in (await mgr.status())["problems"]}

        await until(told, "the problem")
        assert (await drive(mgr, 2))["held"] > 0


async def test_all_drives_of_a_node_are_emptied_together(mgr):
    async with peers(mgr, 4, 0) as made, copying(made):
        answer = await mgr.http.post("/v1/nodes/node-4/evacuate")
        assert [d["id"] for d in answer.json()["drives"]] == [4]
        kept = await mgr.http.delete("/v1/nodes/node-4/evacuate")
        assert [d["evacuating"] for d in kept.json()["drives"]] == [False]

        async def whole():
            return is_whole(await records(made[0]))

        await until(whole, "nothing is on its way")


async def test_a_drive_that_does_not_promise_to_stop_reads_stays_in_sync(mgr):
    async with peers(mgr, 4, 0) as made, copying(made):
        made[1].answers = False
        await mgr.http.post("/v1/drives/2/evacuate")

        def asked():
            return any(c.WhichOneof("kind") == "quiesce" for c in made[1].commands)

        await until(asked, "the question")
        held = [r for r in await records(made[0]) if 2 in r.insync and 2 not in r.target]
        assert held, "it left nothing without its word"
        assert all(len(r.insync) >= 3 for r in await records(made[0]))
