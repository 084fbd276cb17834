"""The sentences of `status`: each names what is wrong and what to do."""

from __future__ import annotations

import pytest

from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import manager, peers


@pytest.fixture
async def mgr(tmp_path):
    async with manager(tmp_path) as running:
        yield running


async def issues(mgr) -> str:
    return "\n".join((await mgr.status())["issues"])


async def test_a_healthy_cluster_has_none(mgr):
    async with peers(mgr, 3, 0):
        assert await issues(mgr) == ""


async def test_a_node_that_is_away_is_named_with_both_ways_out(mgr):
    async with peers(mgr, 3, 0) as made:
        await made[1].ready(pb.DRIVE_STATE_CLOSED)
        await made[1].disconnect()
        found = await issues(mgr)
        assert "64 PGs miss a copy: start node node-2" in found
        assert "node node-2 is not connected: start `drystone server`" in found
        assert "`drystone node forget node-2`" in found


async def test_a_drive_that_is_down_says_why(mgr):
    async with peers(mgr, 3, 0) as made:
        report = pb.ReportDriveRequest(
            drive=1, nonce=7, state=pb.DRIVE_STATE_FAILED, reason="EIO at 4096"
        )
        await made[0].call("ReportDrive", report)
        assert "drive 1 on node-1 is down (EIO at 4096): see the log" in await issues(mgr)


async def test_groups_without_a_copy_name_who_holds_it_before_they_name_mark_lost(mgr):
    async with peers(mgr, 3, 0) as made:
        for peer in made:
            await peer.ready(pb.DRIVE_STATE_CLOSED)
        found = await issues(mgr)
        assert "64 PGs have no in-sync copy on a drive that is up" in found
        assert found.index("start node node-3") < found.index("`drystone pool mark-lost default/0`")


async def test_a_pool_narrower_than_its_copies_says_how_to_get_there(mgr):
    async with peers(mgr, 1, 0):
        body = {"name": "wide", "copies": 3}
        assert (await mgr.http.post("/v1/pools", json=body)).status_code == 201
        assert "pool wide keeps 1 of 3 copies" in await issues(mgr)


async def test_a_full_drive_and_bad_blocks_are_told(mgr):
    async with peers(mgr, 3, 0):
        mgr.services.stats.report(
            pb.DriveStatus(
                drive=2, capacity_bytes=100, used_bytes=80, reserved_bytes=9, bad_blocks=2
            )
        )
        found = await issues(mgr)
        assert "drive 2 on node-2 is 89 % full" in found
        assert "had 2 bad blocks, 0 healed" in found
