"""A drop is only as good as its evidence: what voids it, and what never counts as proof."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from drystone_storaged.cluster import pgmap
from drystone_storaged.cluster.drives import EvidenceExpiredError
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.membership_service import Evidence
from drystone_storaged.cluster.nodes import change_voters
from drystone_storaged.cluster.records import DriveState
from drystone_storaged.manager.probe import Liveness
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import insync, peers, until


def hangs(peer) -> None:
    """From now on the peer's drive says that it hangs, and it answers quiesce by hand."""
    answer = peer._answer

    def hung(command):
        result = answer(command)
        if command.WhichOneof("kind") == "probe":
            result.probe.oldest_io_us = 2_000_000
        return result

    peer._answer = hung


async def evidence(mgr) -> Evidence:
    return Evidence("a test", mgr.services.env.monotonic())


async def test_a_process_that_restarted_between_look_and_drop_is_not_dropped(mgr):
    async with peers(mgr, 3, 1) as made:
        victim, client = made[0], made[-1]
        judge = mgr.services.judge
        prober = judge._deps.prober
        opened: list[str] = []

        class Restarting:
            async def probe(self, addr):
                if not opened:
                    opened.append(addr)
                    await victim.open_drive(nonce=8, previous=7)
                    return Liveness.REFUSED
                return await prober.probe(addr)

        object.__setattr__(judge._deps, "prober", Restarting())
        with pytest.raises(EvidenceExpiredError):
            await judge.check_process(victim.uuid.hex())
        assert all(members == {1, 2, 3} for members in insync(await client.map()))
        state = await mgr.services.feed.read()
        assert state.drives[1].state is DriveState.UP


async def test_a_quiesce_binds_no_later_epoch_and_the_sweep_does_not_finish_the_drop(mgr):
    async with peers(mgr, 3, 1) as made:
        victim, client = made[0], made[-1]
        hangs(victim)
        commander = mgr.services.judge._deps.commander
        quiesce = commander.quiesce

        async def slow(node, drive, pgs):
            promised = await quiesce(node, drive, pgs)
            # Another drive leaves meanwhile: the promise was for epochs that are over.
            await mgr.services.membership.drop([3], await evidence(mgr))
            return promised

        commander.quiesce = slow
        state = await mgr.services.feed.read()
        with pytest.raises(EvidenceExpiredError):
            await mgr.services.judge.drop_live(state, state.drives[1], await evidence(mgr))
        await mgr.services.judge.sweep()
        assert all(1 in members for members in insync(await client.map()))


async def promised(client) -> dict[int, pgmap.PgRecord]:
    """Records by PG."""
    shards = (await client.map()).pools[0].shards
    return dict(enumerate(r for s in shards for r in pgmap.decode_shard(s)))


def renewal(epochs: dict[int, int], drive: int = 1) -> pb.RenewEpochsRequest:
    pgs = [pb.Pg(pool=1, pg=pg, epoch=epoch) for pg, epoch in epochs.items()]
    return pb.RenewEpochsRequest(drive=drive, nonce=7, pgs=pgs)


async def test_a_promise_ends_only_by_the_epoch_it_names_and_for_a_drive_in_sync(mgr):
    async with peers(mgr, 3, 1) as made:
        await mgr.services.membership.drop([3], await evidence(mgr), only=[PgRef(1, 0)])

        async def joins():
            return (await promised(made[-1]))[0].joiner(3)

        await until(joins, "the join")
        before = await promised(made[-1])
        asked = {0: before[0].epoch, 1: before[1].epoch + 1, 999_999: 1}
        answer = await made[0].call("RenewEpochs", renewal(asked))
        after = await promised(made[-1])
        assert answer.map_revision == (await made[-1].map()).revision
        # The joiner with its join epoch, too: its copy goes on.
        assert after == before | {0: replace(before[0], epoch=before[0].epoch + 1)}
        # Said once more, and by one that is not in sync: nothing to be done.
        await made[0].call("RenewEpochs", renewal(asked))
        await made[2].call("RenewEpochs", renewal({0: after[0].epoch}, drive=3))
        assert await promised(made[-1]) == after


async def test_a_drop_that_rests_on_a_promise_of_before_the_new_epoch_fails(mgr):
    async with peers(mgr, 3, 1) as made:
        hangs(made[0])
        commander = mgr.services.judge._deps.commander
        quiesce = commander.quiesce

        async def slow(node, drive, pgs):
            done = await quiesce(node, drive, pgs)
            await made[0].call("RenewEpochs", renewal({0: (await promised(made[-1]))[0].epoch}))
            return done

        commander.quiesce = slow
        state = await mgr.services.feed.read()
        with pytest.raises(EvidenceExpiredError):
            await mgr.services.judge.drop_live(state, state.drives[1], await evidence(mgr))
        assert all(1 in members for members in insync(await made[-1].map()))


async def test_whoever_asked_for_a_promise_and_drops_nobody_ends_it_at_once(mgr):
    async with peers(mgr, 3, 1) as made:
        before = await promised(made[-1])
        late = Evidence("too old", mgr.services.env.monotonic() - 60)
        state = await mgr.services.feed.read()
        with pytest.raises(EvidenceExpiredError):
            await mgr.services.judge.drop_live(state, state.drives[1], late)
        after = await promised(made[-1])
        assert after == {pg: replace(r, epoch=r.epoch + 1) for pg, r in before.items()}


async def test_a_silent_node_whose_drop_came_to_nothing_keeps_its_copies_in_the_sweep(mgr):
    async with peers(mgr, 3, 1) as made:
        state = await mgr.services.feed.read()
        await mgr.services.drives.set_down({1: state.drive_revisions[1]}, "silent", ended=False)
        await mgr.services.judge.sweep()
        assert all(1 in members for members in insync(await made[-1].map()))
        await made[0].ready(pb.DRIVE_STATE_FAILED)
        assert all(1 not in members for members in insync(await made[-1].map()))


async def test_a_report_of_an_end_that_is_overtaken_by_a_new_open_drops_nothing(mgr):
    async with peers(mgr, 3, 1) as made:
        assert await mgr.services.judge.drive_ended(1, "an old report") is None
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))


async def test_a_joiner_that_was_promoted_is_not_dropped_as_a_joiner(mgr):
    async with peers(mgr, 3, 1) as made:
        await mgr.services.membership.drop([1], await evidence(mgr))

        async def joining():
            shards = (await made[-1].map()).pools[0].shards
            records = [r for s in shards for r in pgmap.decode_shard(s)]
            return all(r.joiner(1) for r in records) and records

        await until(joining, "the join")
        records = await joining()
        done = await made[0].call(
            "CopyComplete",
            pb.CopyCompleteRequest(
                drive=1, nonce=7, pgs=[pb.Pg(pool=1, pg=0, epoch=records[0].epoch)]
            ),
        )
        assert not done.refused
        await mgr.services.membership.drop([1], await evidence(mgr), joining=True)
        after = insync(await made[-1].map())
        assert after[0] == {1, 2, 3}
        assert all(members == {2, 3} for members in after[1:])


async def test_a_wish_to_leave_as_a_joiner_never_drops_an_in_sync_member(mgr):
    async with peers(mgr, 3, 0) as made:
        pgs = [pb.Pg(pool=1, pg=0)]
        wish = pb.LeavePgRequest(drive=1, nonce=7, reason="late", pgs=pgs, joining=True)
        await made[0].call("LeavePg", wish)
        assert all(members == {1, 2, 3} for members in insync(await made[1].map()))
        await made[0].call("LeavePg", pb.LeavePgRequest(drive=1, nonce=7, reason="x", pgs=pgs))
        assert insync(await made[1].map())[0] == {2, 3}


async def test_a_leave_of_an_older_open_is_refused(mgr):
    async with peers(mgr, 3, 0) as made:
        await made[0].open_drive(nonce=8, previous=7)
        leave = pb.LeavePgRequest(drive=1, nonce=7, reason="late")
        with pytest.raises(Exception, match="opened again"):
            await made[0].call("LeavePg", leave)
        assert all(members == {1, 2, 3} for members in insync(await made[1].map()))


async def test_reports_of_silence_at_the_same_time_make_one_suspicion_and_one_drop(mgr):
    async with peers(mgr, 3, 1) as made:
        silent = made[0].uuid
        report = pb.ReportSilenceRequest(silent=[silent])
        again = [voter.call("ReportSilence", report) for voter in made[1:3] for _ in range(8)]
        await asyncio.gather(*again)

        async def dropped():
            return all(members == {2, 3} for members in insync(await made[-1].map()))

        await until(dropped, "the drop")
        promises = [c.promise for c in made[1].commands if c.WhichOneof("kind") == "promise"]
        assert len({promise.suspect.round for promise in promises}) == 1


async def test_a_change_of_the_voters_voids_a_silence_vote(mgr):
    async with peers(mgr, 3, 1) as made:
        for voter in made[1:3]:
            await voter.call("ReportSilence", pb.ReportSilenceRequest(silent=[made[0].uuid]))
        promises = lambda: [c for c in made[1].commands if c.WhichOneof("kind") == "promise"]  # noqa: E731
        await until(promises, "a promise is asked")
        for voter in made[1:3]:
            await voter.call("ReportSilence", pb.ReportSilenceRequest())
        voters = await mgr.services.voters.current()
        assert await change_voters(mgr.services.env.store, voters, voters.nodes)
        lists = lambda: [m for m in made[2].messages if m.WhichOneof("kind") == "suspects"]  # noqa: E731
        await until(lambda: not lists()[-1].suspects.suspects, "the end of the suspicion")
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))


async def test_mark_lost_goes_through_to_the_volumes(mgr):
    async with peers(mgr, 2, 0) as made:
        volume = (await mgr.http.post("/v1/volumes", json={"name": "v", "size": 1 << 30})).json()
        await made[0].ready(pb.DRIVE_STATE_FAILED)
        await made[1].ready(pb.DRIVE_STATE_FAILED)
        refused = await mgr.http.post(
            "/v1/pools/default/mark-lost", json={"pg": 3, "confirm": True}
        )
        assert refused.status_code == 409, refused.text
        assert refused.json()["code"] == "pg_no_heir"
        await made[0].open_drive(nonce=8, previous=7)
        answer = await mgr.http.post("/v1/pools/default/mark-lost", json={"pg": 3, "confirm": True})
        assert answer.status_code == 202, answer.text
        task = answer.json()["id"]

        async def done():
            return (await mgr.http.get(f"/v1/tasks/{task}")).json()["state"] == "done"

        await until(done, "the loss is recorded")
        shown = (await mgr.http.get(f"/v1/volumes/{volume['id']}")).json()
        assert [lost["pg"] for lost in shown["lost_pgs"]] == [3]
        assert insync(await made[0].map())[3] == {1}


def failed(peer) -> None:
    """From now on the peer's server says that its drive failed."""
    answer = peer._answer

    def fails(command):
        result = answer(command)
        if command.WhichOneof("kind") == "probe":
            result.ClearField("probe")
            result.code, result.message = "drive_failed", "a write to the drive failed"
        return result

    peer._answer = fails


def complaint(drive: int) -> pb.ReportFailureRequest:
    return pb.ReportFailureRequest(
        drive=drive, kind=pb.FAILURE_KIND_ERROR, drive_nonce=7, detail="EIO"
    )


async def test_a_reported_drive_that_failed_by_its_own_account_is_dropped(mgr):
    async with peers(mgr, 3, 1) as made:
        failed(made[0])
        await made[-1].call("ReportFailure", complaint(1))

        async def dropped():
            return all(members == {2, 3} for members in insync(await made[-1].map()))

        await until(dropped, "the drop")
        record = (await mgr.services.feed.read()).drives[1]
        assert (record.state, record.ended) == (DriveState.DOWN, True)
        assert record.reason == "a write to the drive failed"


async def test_when_every_drive_failed_the_last_copies_stay_and_the_status_is_critical(mgr):
    async with peers(mgr, 3, 1) as made:
        for peer in made[:3]:
            failed(peer)
        for drive in (1, 2, 3):
            await made[-1].call("ReportFailure", complaint(drive))

        async def down():
            state = await mgr.services.feed.read()
            return all(d.ended for d in state.drives.values())

        await until(down, "every drive is down")
        assert all(members for members in insync(await made[-1].map()))
        status = await mgr.status()
        assert status["health"] == "critical"
        assert "64 PGs have no in-sync copy on a drive that is up" in status["issues"][0]


async def test_a_drive_that_its_server_calls_failed_is_down_before_that_is_recorded(mgr):
    async with peers(mgr, 1, 0) as made:
        refusal = pb.RefusedDrive(
            uuid=made[0].uuid[::-1], path="/d/1.img", code="drive_failed", reason="EIO"
        )
        refused = pb.RefusedDrives(drives=[refusal])
        await made[0].outbox.put(pb.SessionUp(status=pb.Status(refused=refused)))

        async def critical():
            return (await mgr.status())["health"] == "critical"

        await until(critical, "the health")
        status = await mgr.status()
        assert status["drives"][0]["state"] == "down"
        assert "drive 1 on node-1 failed and answers nothing: EIO; see the log" in "\n".join(
            status["issues"]
        )
        assert (await mgr.services.feed.read()).drives[1].state is DriveState.UP
