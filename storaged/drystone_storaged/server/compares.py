"""Comparing what the in-sync drives of a group hold, as one of them does it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from drystone_common.errors import UnavailableError
from drystone_storaged.agent.pump import Event
from drystone_storaged.proto import control_pb2

NEWS_S: Final = 5.0  # how often a running comparison says that it runs
EXAMPLES_MAX: Final = 64  # as many as the engine tells

Request = Callable[[int, Mapping[str, object]], Awaitable[Event]]
Answer = Callable[[control_pb2.CommandResult], None]


class Compares:
    """At most one comparison of each drive at a time."""

    def __init__(self, request: Request, serves: Callable[[int], int], answer: Answer) -> None:
        """``serves`` gives what changes with every open of a drive; 0 = it does not serve."""
        self._request = request
        self._serves = serves
        self._answer = answer
        self._found: dict[int, dict[tuple[int, ...], control_pb2.Divergent]] = {}

    def on_divergent(self, event: Event) -> None:
        """Take the report `divergent`: once for each block, however often it is begun anew."""
        found = self._found.get(event["drive"])
        if found is None or len(found) >= EXAMPLES_MAX:
            return
        told = control_pb2.Divergent(
            volume=event["volume"],
            layer=event["layer"],
            chunk=event["chunk"],
            block=event["block"],
            drive=event["other"],
            here=side_text(event["ours"]),
            there=side_text(event["theirs"]),
        )
        found[told.layer, told.chunk, told.block, told.drive] = told

    async def run(self, command: int, compare: control_pb2.Compare) -> control_pb2.CommandResult:
        """Carry one out; the caller bounds the time."""
        drive = compare.drive
        opened = self._serves(drive)
        if not opened:
            raise UnavailableError(f"drive {drive} is not open", code="drive_not_open")
        if drive in self._found:
            raise UnavailableError(f"drive {drive} compares a group", code="busy")
        self._found[drive] = {}
        asked = asyncio.ensure_future(
            self._request(drive, {"what": "compare", "pool": compare.pool, "pg": compare.pg})
        )
        try:
            while not asked.done():
                if self._serves(drive) != opened:
                    # Its engine is gone and will report nothing.
                    raise UnavailableError(f"drive {drive} was closed", code="drive_not_open")
                self._answer(control_pb2.CommandResult(id=command, more=True))
                await asyncio.wait((asked,), timeout=NEWS_S)
            return self._result(drive, asked.result())
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            del self._found[drive]

    def _result(self, drive: int, done: Event) -> control_pb2.CommandResult:
        if not done["ok"]:
            return control_pb2.CommandResult(code="failed", message=str(done["reason"]))
        seen: dict[str, int] = done["compared"]
        return control_pb2.CommandResult(
            compared=control_pb2.Compared(**seen, examples=self._found[drive].values())
        )


def side_text(side: dict[str, Any] | None) -> str:
    """What one drive holds of a block, in words."""
    if side is None:
        return "nothing"
    return f"{side['kind']} of version {side['generation']}.{side['sequence']}"
