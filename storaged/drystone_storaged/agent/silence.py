"""What the beacon heard and did not hear, on its way to the manager and back.

For a beacon in a process of its own and for one inside the server alike.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final, Protocol
from uuid import UUID

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.agent.control import Control
from drystone_storaged.agent.pump import Event
from drystone_storaged.proto import control_pb2

REPEAT_S: Final = 1.0  # while somebody is silent, the interface's figure
REPORT_TIMEOUT_S: Final = 1.0
RETRY_S: Final = 1.0  # after a report that was not answered; the next one replaces it

_log = get_logger(__name__)


class SilenceCore(Protocol):
    """What of a native core is asked here."""

    def voters(self, version: int, voters: list[str], nodes: list[tuple[str, str]]) -> None:
        """Take the voters."""
        ...

    def suspects(self, as_of: int, keys: list[tuple[str, int]]) -> None:
        """Take the suspicions that stand."""
        ...


class Silence:
    """Voters and suspicions downwards, silence upwards."""

    def __init__(self, core: SilenceCore, control: Control) -> None:
        self._core = core
        self._control = control
        self.silent: list[str] = []
        self._version = 0
        self._changed = asyncio.Event()
        self.in_quorum: bool | None = None

    def on_silent(self, event: Event) -> None:
        """Take `silent`."""
        self.silent = list(event["nodes"])
        self._changed.set()

    def on_quorum(self, event: Event) -> None:
        """Take `quorum`."""
        self.in_quorum = bool(event["inside"])
        _log.info("quorum", inside=self.in_quorum)

    def voters(self, voters: control_pb2.Voters) -> None:
        """Tell the beacon who votes and where everybody listens, and the manager that it knows."""
        if voters.version >= self._version:
            self._version = voters.version
            nodes = [(uuid_text(v.node), v.beacon_addr) for v in voters.voters]
            self._core.voters(voters.version, [node for node, _ in nodes], nodes)
        # The next change of the voters waits for this report; a new manager knows of none.
        self._changed.set()

    def suspects(self, suspects: control_pb2.Suspects) -> None:
        """Tell the beacon every suspicion that stands."""
        keys = [(uuid_text(s.node), s.round) for s in suspects.suspects]
        # A round is the revision before its suspicion was written, so one at this very revision
        # may be newer than the list.
        self._core.suspects(max(0, suspects.revision - 1), keys)

    async def run(self) -> None:
        """Report on every change, and each second while not empty, until cancelled.

        One that was not answered is said again: the manager changes nothing about the voters
        before it heard from every node, and while a node does not vote its loss may not be decided.
        """
        answered = True
        while True:
            wait_s = (REPEAT_S if self.silent else None) if answered else RETRY_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            self._changed.clear()
            request = control_pb2.ReportSilenceRequest(
                voters_version=self._version, silent=[UUID(node).bytes for node in self.silent]
            )
            try:
                await self._control.call(
                    lambda stub: stub.ReportSilence,
                    request,
                    timeout_s=REPORT_TIMEOUT_S,
                    within_s=REPORT_TIMEOUT_S,
                )
            except DrystoneError as error:
                _log.info("silence_not_reported", code=error.code)
                answered = False
            else:
                answered = True


class Votes:
    """The manager's requests for promises, each answered by one event `vote`."""

    def __init__(self, ask: Callable[[str, int], None]) -> None:
        self._ask = ask
        self._waiting: dict[tuple[str, int], asyncio.Future[bool]] = {}

    def on_vote(self, event: Event) -> None:
        """Take `vote`."""
        future = self._waiting.get((event["node"], event["round"]))
        if future is not None and not future.done():
            future.set_result(bool(event["granted"]))

    async def promise(self, promise: control_pb2.Promise) -> control_pb2.CommandResult:
        """Ask the beacon; the caller bounds the wait."""
        key = (uuid_text(promise.suspect.node), promise.suspect.round)
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        try:
            self._ask(*key)
            granted = await future
        finally:
            self._waiting.pop(key, None)
        return control_pb2.CommandResult(code="" if granted else "heard")


def uuid_text(raw: bytes) -> str:
    """16 bytes as the canonical text."""
    return str(UUID(bytes=raw))
