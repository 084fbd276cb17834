"""What a server says of drives that leave."""

from __future__ import annotations

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
