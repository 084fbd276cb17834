"""The manager's commands to a beacon, carried out and answered. Every command may arrive again."""

from __future__ import annotations

import asyncio
from typing import Final

from drystone_common.errors import UnavailableError
from drystone_storaged.agent.command_tasks import Answer, CommandTasks
from drystone_storaged.agent.pump import Event
from drystone_storaged.agent.silence import Votes
from drystone_storaged.beacon.core import BeaconCore
from drystone_storaged.proto import control_pb2

DEADLINE_DEFAULT_S: Final = 1.0  # for a command that names none: all are answered from memory


class Revocations:
    """Requests to take the server its lease, each answered by one event `revoked`."""

    def __init__(self, core: BeaconCore) -> None:
        self._core = core
        self._waiting: dict[int, asyncio.Future[bool]] = {}

    def on_revoked(self, event: Event) -> None:
        """Take `revoked`."""
        future = self._waiting.get(event["round"])
        if future is not None and not future.done():
            future.set_result(bool(event["granted"]))

    async def revoke(self, revoke: control_pb2.Revoke) -> control_pb2.CommandResult:
        """Ask the beacon; the caller bounds the wait."""
        future = self._waiting.get(revoke.round)
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._waiting[revoke.round] = future
        try:
            self._core.revoke(revoke.round, revoke.instance)
            granted = await asyncio.shield(future)
        finally:
            if self._waiting.get(revoke.round) is future:
                del self._waiting[revoke.round]
        return control_pb2.CommandResult(code="" if granted else "server_moves")


class Commands:
    """What a beacon does for each command of the manager."""

    def __init__(self, votes: Votes, revocations: Revocations, answer: Answer) -> None:
        self._votes = votes
        self._revocations = revocations
        self.tasks = CommandTasks(self.result, answer)

    async def result(self, command: control_pb2.Command) -> control_pb2.CommandResult:
        """Carry one out; what fails is a result too."""
        try:
            async with asyncio.timeout(command.deadline_ms / 1000 or DEADLINE_DEFAULT_S):
                return await self._do(command)
        except (TimeoutError, UnavailableError) as error:
            message = str(error) or "the beacon's thread did not answer"
            return control_pb2.CommandResult(code="failed", message=message[:500])

    async def _do(self, command: control_pb2.Command) -> control_pb2.CommandResult:
        kind = command.WhichOneof("kind")
        try:
            if kind == "promise":
                return await self._votes.promise(command.promise)
            if kind == "revoke":
                return await self._revocations.revoke(command.revoke)
        except (TimeoutError, asyncio.CancelledError):
            raise
        except Exception as error:
            # The native side refuses what it cannot take, such as after its end.
            raise UnavailableError(str(error), code="beacon_not_running") from error
        return control_pb2.CommandResult(code="failed", message="unknown command")
