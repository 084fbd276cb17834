"""Commands of the manager as tasks of their own. Every command may arrive again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from drystone_storaged.proto import control_pb2

COMMANDS_MAX: Final = 256
"""At once. The manager repeats what was not answered, so refusing more loses nothing."""

Answer = Callable[[control_pb2.CommandResult], None]


class CommandTasks:
    """Runs ``carry_out`` for each command, which bounds its own time, and answers with its result.

    What fails is a result too: ``carry_out`` raises only for defects.
    """

    def __init__(
        self,
        carry_out: Callable[[control_pb2.Command], Awaitable[control_pb2.CommandResult]],
        answer: Answer,
    ) -> None:
        self._carry_out = carry_out
        self._answer = answer
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def start(self, command: control_pb2.Command) -> None:
        """Begin; one that is running already goes on and is answered once."""
        if command.id in self._tasks:
            return
        if len(self._tasks) >= COMMANDS_MAX:
            self._answer(control_pb2.CommandResult(id=command.id, code="busy"))
            return
        task = asyncio.create_task(self._run(command), name=f"command-{command.id}")
        self._tasks[command.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(command.id, None))

    async def stop(self) -> None:
        """Abandon what runs; the manager asks again after the restart."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, command: control_pb2.Command) -> None:
        result = await self._carry_out(command)
        result.id = command.id
        self._answer(result)
