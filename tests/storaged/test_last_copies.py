"""What may be the last of something is neither dropped, nor silenced, nor emptied."""

from __future__ import annotations

import pytest

from drystone_storaged.cluster import membership
from drystone_storaged.cluster.pgmap import Joiner, OutSince, PgRecord
from drystone_storaged.manager.failures import STUCK_US
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import Peer, insync, peers, until

SOON_OVER_US = STUCK_US // 2


def hangs(peer: Peer, oldest_us: int) -> None:
    """From now on its drive's oldest operation is as old."""
    answer = peer._answer

    def hung(command):
        result = answer(command)
        if command.WhichOneof("kind") == "probe":
            result.probe.oldest_io_us = oldest_us
        return result

    peer._answer = hung  # type: ignore[method-assign]


def asked(peer: Peer) -> list[str]:
    return [command.WhichOneof("kind") for command in peer.commands]


async def complain(client: Peer, drive: int) -> None:
    report = pb.ReportFailureRequest(drive=drive, kind=pb.FAILURE_KIND_STALL, drive_nonce=7)
    await client.call("ReportFailure", report)


async def leaves(peer: Peer, **fields):
    request = pb.LeavePgRequest(drive=peer.drive, nonce=peer.nonce, **fields)
    return await peer.call("LeavePg", request)


async def state_of(mgr, drive: int) -> str:
    return (await mgr.http.get(f"/v1/drives/{drive}")).json()["state"]


async def test_a_drive_that_hangs_and_is_all_there_is_goes_on_answering(mgr):
    async with peers(mgr, 1, 1) as (server, client):
        hangs(server, 2 * STUCK_US)
        await complain(client, server.drive)
        await until(lambda: "probe" in asked(server), "the look at the drive")
        await mgr.services.judge.client_report(
            server.drive, pb.FAILURE_KIND_STALL, 7, (await mgr.services.nodes.list("client"))[0]
        )
        assert "quiesce" not in asked(server), "no epoch would ever end its promise"
        assert await state_of(mgr, server.drive) == "up"


@pytest.mark.parametrize(("oldest_us", "stays"), [(SOON_OVER_US, True), (2 * STUCK_US, False)])
async def test_a_short_hang_drops_nobody_without_whom_writes_wait(mgr, oldest_us, stays):
    async with peers(mgr, 3, 1) as made:
        victim, client = made[0], made[-1]
        await made[2].ready(pb.DRIVE_STATE_CLOSED)

        async def out():
            return all(members == {1, 2} for members in insync(await client.map()))

        await until(out, "the third copy to be out")
        hangs(victim, oldest_us)
        reporter = (await mgr.services.nodes.list("client"))[0]
        await mgr.services.judge.client_report(1, pb.FAILURE_KIND_STALL, 7, reporter)
        members = insync(await client.map())
        assert all(each == ({1, 2} if stays else {2}) for each in members)
        assert ("quiesce" in asked(victim)) != stays


async def test_when_most_hang_at_this_moment_it_is_not_the_drive(mgr):
    async with peers(mgr, 3, 1) as made:
        for peer in made[:3]:
            hangs(peer, SOON_OVER_US)
        reporter = (await mgr.services.nodes.list("client"))[0]
        await mgr.services.judge.client_report(1, pb.FAILURE_KIND_STALL, 7, reporter)
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))


async def test_a_suspect_drive_stays_in_sync_while_no_other_copy_lives(mgr):
    async with peers(mgr, 3, 0) as made:
        for peer in made[1:]:
            await peer.disconnect()
        done = await leaves(made[0], blank=True, reason="suspect")
        assert len(done.refused) == 64
        assert all(1 in members for members in insync(await made[0].map()))


async def test_a_last_copy_that_cannot_serve_is_a_critical_problem(mgr):
    async with peers(mgr, 3, 0) as made:

        async def told():
            problems = (await mgr.status())["problems"]
            return [p for p in problems if p["code"] == "last_copies_closed"]

        for peer in made[1:]:
            await peer.ready(pb.DRIVE_STATE_CLOSED)

        async def alone():
            return all(members == {1} for members in insync(await made[0].map()))

        await until(alone, "both drops")
        assert not await told()
        reason = "a stable version that a peer holds is missing here"
        assert len((await leaves(made[0], blank=True, reason=reason)).refused) == 64
        [problem] = await told()
        assert (problem["severity"], problem["objects"]) == ("critical", ["drive 1"])
        assert "mark-lost default/0 --plan" in problem["todo"]
        assert (await mgr.status())["health"] == "critical"
        # Opened anew it is judged anew.
        await made[0].open_drive(nonce=8, previous=7)
        assert not await told()


async def test_nobody_is_dropped_because_of_a_copy_that_said_it_cannot_serve(mgr):
    async with peers(mgr, 2, 0) as made:
        await made[1].disconnect()
        assert len((await leaves(made[0], blank=True, reason="suspect")).refused) == 64
        await made[1].stop_listening()  # its process is dead: it would be dropped at once
        await mgr.services.judge.sweep()
        assert all(2 in members for members in insync(await made[0].map()))
        # Opened anew it is judged anew.
        await made[0].open_drive(nonce=8, previous=7)

        async def dropped():
            await mgr.services.judge.sweep()
            return all(members == {1} for members in insync(await made[0].map()))

        await until(dropped, "the drop of the dead one")


async def test_a_machine_that_is_off_is_forgotten_on_a_persons_word(mgr):
    async with peers(mgr, 3, 0) as made:
        for peer in made[1:]:
            await peer.disconnect()  # somebody listens there still: nothing proves that it is off

        async def gone():
            nodes = (await mgr.status())["nodes"]
            return sorted(n["name"] for n in nodes if not n["connected"]) == ["node-2", "node-3"]

        await until(gone, "the end of both sessions")
        refused = await mgr.http.delete("/v1/nodes/node-3")
        assert refused.status_code == 409, refused.text
        assert "--force" in refused.json()["hint"]
        for name in ("node-3", "node-2"):
            done = await mgr.http.delete(f"/v1/nodes/{name}?force=true")
            assert done.status_code == 204, done.text
        assert all(members == {1} for members in insync(await made[0].map()))
        voters = {n["name"] for n in (await mgr.status())["nodes"] if n["voter"]}
        assert voters == {"node-1"}


async def test_the_last_copy_is_not_given_up_with_a_machine(mgr):
    async with peers(mgr, 1, 0) as (server,):
        await server.disconnect()

        async def gone():
            return not any(n["connected"] for n in (await mgr.status())["nodes"])

        await until(gone, "the end of the session")
        refused = await mgr.http.delete("/v1/nodes/node-1?force=true")
        assert refused.status_code == 409, refused.text
        assert "mark-lost" in refused.json()["hint"]


def test_who_takes_over_is_who_holds_most():
    record = PgRecord(
        60, (1,), (Joiner(2, 55, 0), Joiner(5, 58, 50)),
        (OutSince(3, 50, 0), OutSince(4, 20, 0)), (1, 2, 6),
    )  # fmt: skip
    ranked = membership.heirs(record, {2, 3, 4, 5, 6})
    assert [heir.drive for heir in ranked] == [5, 3, 4, 2, 6]
    assert "before epoch 50, and some of what came later" in str(ranked[0])
    assert "without any of it" in str(ranked[-1])
    assert [h.drive for h in membership.heirs(record, {2, 6})] == [2, 6]


def test_a_joiner_leaves_although_no_copy_lives():
    ref = membership.PgRef(1, 0)
    record = PgRecord(9, (1,), (Joiner(2, 8, 3),), target=(1, 2))
    changed, kept = membership.plan_drop({ref: record}, [2], 0, live=frozenset())
    assert (changed[ref].insync, changed[ref].joining, kept) == ((1,), (), ())
    assert not membership.plan_drop({ref: record}, [1], 0, live=frozenset())[0]


async def test_the_choice_is_shown_before_data_is_given_up_and_may_be_made(mgr):
    async with peers(mgr, 3, 0) as made:
        for peer in made:
            await peer.ready(pb.DRIVE_STATE_FAILED)
        path = "/v1/pools/default/mark-lost"
        assert (await mgr.http.get(f"{path}?pg=3")).json()["code"] == "pg_no_heir"
        # Two went first and are remembered; the third is the last copy, and down.
        last = next(iter(insync(await made[0].map())[3]))
        others = [peer for peer in made if peer.drive != last]
        for peer in others:
            await peer.open_drive(nonce=8, previous=7)
        found = (await mgr.http.get(f"{path}?pg=3")).json()["drives"]
        assert {each["drive"] for each in found} == {peer.drive for peer in others}
        assert all("before epoch" in each["text"] for each in found)
        refused = await mgr.http.post(path, json={"pg": 3, "confirm": True, "drive": last})
        assert refused.json()["code"] == "pg_not_an_heir"
        chosen = found[1]["drive"]
        task = (await mgr.http.post(path, json={"pg": 3, "confirm": True, "drive": chosen})).json()
        assert f"drive {chosen} took over" in task["message"]
        assert chosen in insync(await made[0].map())[3]
