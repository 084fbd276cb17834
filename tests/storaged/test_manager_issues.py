"""The sentences of `status`: each names what is wrong and what to do."""

from __future__ import annotations

from drystone_storaged.cluster.drives import STOPPED
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import insync, peers, until


async def issues(mgr) -> str:
    return "\n".join((await mgr.status())["issues"])


async def said(mgr, text: str) -> bool:
    return text in await issues(mgr)


async def unsaid(mgr, text: str) -> bool:
    return text not in await issues(mgr)


async def test_a_healthy_cluster_has_none(mgr):
    async with peers(mgr, 3, 0):
        assert await issues(mgr) == ""


async def test_a_node_that_is_away_is_named_with_both_ways_out(mgr):
    async with peers(mgr, 3, 0) as made:
        await made[1].ready(pb.DRIVE_STATE_CLOSED)
        await made[1].disconnect()
        found = await issues(mgr)
        assert "64 PGs miss a copy: start the server on node-2" in found
        assert "node node-2 is not connected: start `drystone server`" in found
        assert "add another node for its copies, then `drystone node forget node-2 --yes`" in found


async def test_a_lost_node_is_to_be_forgotten_at_once_where_others_have_room(mgr):
    async with peers(mgr, 4, 0) as made:
        await made[1].ready(pb.DRIVE_STATE_CLOSED)
        await made[1].disconnect()
        forget = "`drystone node forget node-2 --yes` places its copies elsewhere"
        await until(lambda: said(mgr, forget), "the way out")


async def test_while_writes_wait_nobody_is_told_to_forget_a_node(mgr):
    async with peers(mgr, 3, 0) as made:
        for peer in made[1:]:
            await peer.die()
        await until(lambda: said(mgr, "fewer in-sync copies than min_insync"), "the stall")
        await until(lambda: said(mgr, "node node-3 is not connected"), "the session's end")
        assert "forget" not in await issues(mgr)


async def test_a_node_whose_copies_are_needed_is_forgotten_only_by_force(mgr):
    async with peers(mgr, 3, 0) as made:
        for peer in made[1:]:
            await peer.die()

        async def dropped():
            return all(members == {1} for members in insync(await made[0].map()))

        await until(dropped, "both drops")
        assert (await mgr.http.delete("/v1/nodes/node-2")).status_code == 204
        refused = await mgr.http.delete("/v1/nodes/node-3")
        assert refused.status_code == 409, refused.text
        assert refused.json()["code"] == "node_holds_copies"
        assert "default/0" in refused.json()["detail"]
        assert (await mgr.http.delete("/v1/nodes/node-3?force=true")).status_code == 204


async def test_a_block_daemon_that_is_away_with_volumes_is_an_issue(mgr):
    async with peers(mgr, 1, 1) as made:
        client = made[1]
        volume = (await mgr.http.post("/v1/volumes", json={"name": "db", "size": 1 << 30})).json()
        body = {"node": client.name}
        assert (await mgr.http.post("/v1/volumes/db/publish", json=body)).status_code == 200
        await client.call(
            "Attach",
            pb.AttachRequest(volume=int(volume["id"], 16), mode=pb.MODE_READ_WRITE, nonce=5),
        )
        assert await issues(mgr) == ""
        await client.disconnect()
        line = "the block daemon of node block-1 is not connected, devices of db wait"
        await until(lambda: said(mgr, line), "the issue")
        assert (await mgr.status())["health"] == "warning"
        await client.connect(instance=2)
        await until(lambda: unsaid(mgr, "block daemon"), "the end of the issue")


async def test_when_every_node_is_away_nobody_is_told_to_forget_one(mgr):
    async with peers(mgr, 3, 0) as made:
        for peer in made:
            await peer.die()
        await until(lambda: said(mgr, "node node-3 is not connected"), "the last session's end")
        assert "forget" not in await issues(mgr)


async def test_a_node_with_the_last_copy_is_not_to_be_forgotten(mgr):
    async with peers(mgr, 3, 0) as made:
        for peer in made[:2]:
            await peer.ready(pb.DRIVE_STATE_CLOSED)
        await made[2].die()
        await until(lambda: said(mgr, "node node-3 is not connected"), "the session's end")
        await until(lambda: said(mgr, "start the server on node-3; only if"), "the way out")
        assert "forget node-3" not in await issues(mgr)


async def test_a_drive_that_is_down_says_why(mgr):
    async with peers(mgr, 3, 0) as made:
        report = pb.ReportDriveRequest(
            drive=1, nonce=7, state=pb.DRIVE_STATE_FAILED, reason="EIO at 4096"
        )
        await made[0].call("ReportDrive", report)
        found = await issues(mgr)
        assert "drive 1 on node-1 is down (EIO at 4096): see the log" in found
        assert "PGs miss a copy: bring back drive 1 on node-1, see below" in found


async def test_a_refused_drive_is_told_with_its_servers_reason_and_no_more_once_it_serves(mgr):
    async with peers(mgr, 3, 0) as made:
        await made[0].ready(pb.DRIVE_STATE_CLOSED)
        refusal = pb.RefusedDrive(
            uuid=made[0].uuid[::-1], path="/d/1.img", code="drive_lost", reason="it is missing now"
        )
        blank = pb.RefusedDrive(path="/d/2.img", code="drive_foreign", reason="it holds ext4")
        refused = pb.RefusedDrives(drives=[refusal, blank])
        await made[0].outbox.put(pb.SessionUp(status=pb.Status(refused=refused)))
        line = "drive 1 on node-1 is refused by its server (drive_lost): it is missing now"
        await until(lambda: said(mgr, line), "the refusal")
        assert await said(mgr, "node node-1 refuses a drive (drive_foreign): it holds ext4")
        shown = (await mgr.http.get("/v1/drives/1")).json()
        assert shown["reason"] == "drive_lost: it is missing now"
        await made[0].outbox.put(pb.SessionUp(status=pb.Status()))
        await made[0].ready()
        assert not await said(mgr, "is refused by its server")
        empty = pb.Status(refused=pb.RefusedDrives())
        await made[0].outbox.put(pb.SessionUp(status=empty))
        await until(lambda: unsaid(mgr, "refuses a drive"), "the end of the refusals")


async def test_what_a_server_said_when_it_ended_is_history_once_it_runs_again(mgr):
    async with peers(mgr, 3, 0) as made:
        await made[0].ready(pb.DRIVE_STATE_CLOSED, STOPPED)
        found = await issues(mgr)
        assert "drive 1 on node-1 is down: its server runs again" in found
        assert STOPPED not in found


async def test_groups_without_a_copy_name_who_holds_it_before_they_name_mark_lost(mgr):
    async with peers(mgr, 3, 0) as made:
        for peer in made:
            await peer.ready(pb.DRIVE_STATE_CLOSED)
        await made[2].disconnect()
        await until(lambda: said(mgr, "node node-3 is not connected"), "the session's end")
        found = await issues(mgr)
        assert "64 PGs have no in-sync copy on a drive that is up" in found
        assert found.index("start the server on node-3") < found.index("mark-lost default/0 --yes`")
        assert "node node-3 is not connected" in found


async def test_a_cluster_without_drives_is_not_well(mgr):
    status = await mgr.status()
    assert status["health"] == "warning"
    assert "there are no drives: take one into use (`drystone drive add" in status["issues"][0]


async def test_copies_that_share_a_node_are_told_for_what_they_are(mgr):
    async with peers(mgr, 3, 0) as made:
        await made[0].open_drive(uuid=b"2" * 16)
        body = {"name": "four", "copies": 4}
        assert (await mgr.http.post("/v1/pools", json=body)).status_code == 201
        found = await issues(mgr)
        assert "pool four keeps more than one copy of a PG on the same node" in found
        assert "all copies" not in found


async def test_a_pool_narrower_than_its_copies_says_how_to_get_there(mgr):
    async with peers(mgr, 1, 0):
        body = {"name": "wide", "copies": 3}
        assert (await mgr.http.post("/v1/pools", json=body)).status_code == 201
        assert "pool wide keeps 1 of 3 copies" in await issues(mgr)


async def test_a_full_drive_and_bad_blocks_are_told(mgr):
    async with peers(mgr, 3, 0):
        mgr.services.stats.report(
            pb.DriveStatus(
                drive=2,
                capacity_bytes=100,
                used_bytes=80,
                reserved_bytes=9,
                bad_blocks=5,
                healed_blocks=3,
            )
        )
        found = await issues(mgr)
        assert "drive 2 on node-2 is 89 % full: add a drive" in found
        assert "docs/runbooks/pool-full.md" in found
        assert "had 5 bad blocks, 3 healed from another copy, 2 not healed" in found


async def test_a_copy_that_does_not_go_on_is_told_in_its_servers_words(mgr):
    async with peers(mgr, 3, 0):
        said = "the copy of placement group 7 of pool number 1 to drive 2 is held: …"
        mgr.services.stats.report(pb.DriveStatus(drive=2, capacity_bytes=100, stuck_copies=[said]))
        assert said in await issues(mgr)
