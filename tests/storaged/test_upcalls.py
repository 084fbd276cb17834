"""What a server says of drives that leave."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from structlog.testing import capture_logs

from drystone_storaged.proto import control_pb2 as pb
from drystone_storaged.server.upcalls import Upcalls


class Manager:
    """Refuses every group: each is the last copy."""

    def __init__(self) -> None:
        self.asked = 0

    async def call(self, method, request):
        self.asked += 1
        return pb.LeavePgResponse(refused=request.pgs)

    def need(self, revision):
        """No newer map."""


async def test_a_last_copy_asks_again_and_again_and_is_told_of_once_a_minute():
    manager = Manager()
    calls = Upcalls(cast("Any", None), cast("Any", manager), cast("Any", manager), lambda _: 7)
    now = [100.0]
    calls._pace._monotonic = lambda: now[0]
    with capture_logs() as said:
        for _ in range(20):
            await calls._leave(1, "damage was found", [(1, 5)])
        now[0] += 60
        await calls._leave(1, "damage was found", [(1, 5)])
        await calls._leave(2, "damage was found", [(1, 6)])
    assert manager.asked == 22
    told = [(line["drive"], line["times"]) for line in said if line["event"] == "left_pgs"]
    assert told == [(1, 1), (1, 20), (2, 1)]


async def test_promises_that_lead_to_nothing_are_told_in_one_call_each_drive():
    requests, told = [], asyncio.Event()

    class Renewing(Manager):
        async def call(self, method, request):
            requests.append(request)
            told.set()
            return pb.Ack(map_revision=9)

    manager = Renewing()
    calls = Upcalls(cast("Any", None), cast("Any", manager), cast("Any", manager), lambda _: 7)
    for pg in (3, 1):
        calls.on_still_quiet({"drive": 1, "pool": 1, "pg": pg, "epoch": 4})
    calls.on_still_quiet({"drive": 1, "pool": 1, "pg": 3, "epoch": 5})
    task = asyncio.create_task(calls.run_calls())
    try:
        await asyncio.wait_for(told.wait(), 5)
    finally:
        task.cancel()
    pgs = [pb.Pg(pool=1, pg=1, epoch=4), pb.Pg(pool=1, pg=3, epoch=5)]
    assert requests == [pb.RenewEpochsRequest(drive=1, nonce=7, pgs=pgs)]
