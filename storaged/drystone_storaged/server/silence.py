"""What the beacon heard and did not hear, on its way to the manager and back."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final
from uuid import UUID

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.agent.control import Control
from drystone_storaged.agent.pump import Event
from drystone_storaged.proto import control_pb2
from drystone_storaged.server.commands import uuid_text
from drystone_storaged.server.core import ServerCore

REPEAT_S: Final = 1.0  # while somebody is silent, the interface's figure
REPORT_TIMEOUT_S: Final = 1.0  # the next report replaces one that was not answered

_log = get_logger(__name__)


class Silence:
    """Voters and suspicions downwards, silence upwards."""

    def __init__(self, core: ServerCore, control: Control) -> None:
        self._core = core
        self._control = control
        self._silent: list[str] = []
        self._version = 0
        self._changed = asyncio.Event()
        self.in_quorum: bool | None = None

    def on_silent(self, event: Event) -> None:
        """Take `silent`."""
        self._silent = list(event["nodes"])
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
        """Report on every change, and each second while not empty, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPEAT_S if self._silent else None):
                    await self._changed.wait()
            self._changed.clear()
            request = control_pb2.ReportSilenceRequest(
                voters_version=self._version, silent=[UUID(node).bytes for node in self._silent]
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
