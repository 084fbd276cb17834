"""The manager's commands, carried out and answered. Every command may arrive again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from drystone_common.errors import DeadlineError, DrystoneError, UnavailableError
from drystone_storaged.agent.command_tasks import Answer, CommandTasks
from drystone_storaged.agent.mapfeed import MapFeed
from drystone_storaged.agent.pump import Event
from drystone_storaged.agent.silence import Votes
from drystone_storaged.proto import control_pb2
from drystone_storaged.server.compares import Compares
from drystone_storaged.server.core import ServerCore
from drystone_storaged.server.drive import FAILED_CODE, DriveKeeper, DriveState

BLOCK_BYTES: Final = 4096
DEADLINE_DEFAULT_S: Final = 15.0  # for a command that names none
ORDER_DEADLINE_S: Final = 60.0  # marking a layer deleted is one log record
SCRUB_DEADLINE_S: Final = 14 * 86_400.0  # 20 MiB/s beside clients are 24 TB in two weeks
SCRUB_NEWS_S: Final = 5.0  # how often a running scrub says that it runs


class Controls:
    """Requests to drive threads, each answered by one `control_done`."""

    def __init__(self, core: ServerCore) -> None:
        self._core = core
        self._last = 0
        self._waiting: dict[tuple[int, int], asyncio.Future[Event]] = {}

    async def request(self, drive: int, request: Mapping[str, object]) -> Event:
        """Run one request; the caller bounds the wait."""
        self._last += 1
        key = (drive, self._last)
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._waiting[key] = future
        try:
            try:
                self._core.control(drive, self._last, json.dumps(request))
            except Exception as error:
                raise UnavailableError(str(error), code="drive_not_open") from error
            return await future
        finally:
            del self._waiting[key]

    def on_done(self, event: Event) -> None:
        """Take `control_done`; an answer that nobody waits for any more is dropped."""
        future = self._waiting.get((event["drive"], event["id"]))
        if future is not None and not future.done():
            future.set_result(event)


class Commands:
    """What a server does for each command of the manager."""

    def __init__(
        self,
        controls: Controls,
        maps: MapFeed,
        drives: Sequence[DriveKeeper],
        *,
        probe: Callable[[int], Awaitable[control_pb2.DriveStatus | None]],
        answer: Answer,
        votes: Votes | None,
        look: Callable[[], Awaitable[None]],
    ) -> None:
        """``votes`` is None where the beacon is a process of its own."""
        self._controls = controls
        self._maps = maps
        self._drives = drives
        self._probe = probe
        self._answer = answer
        self._look = look
        self.tasks = CommandTasks(self.result, answer)
        self._votes = votes
        self._scrubs: dict[int, asyncio.Future[Event]] = {}
        self._read: dict[int, tuple[int, int]] = {}
        self.compares = Compares(controls.request, self._open_nonce, answer)

    def on_scrub_done(self, event: Event) -> None:
        """Take the report `scrub_done`."""
        future = self._scrubs.get(event["drive"])
        if future is not None and not future.done():
            future.set_result(event)

    def on_scrub_progress(self, event: Event) -> None:
        """Take the report `scrub_progress`."""
        if event["drive"] in self._scrubs:
            self._read[event["drive"]] = (event["blocks"], event["of"])

    async def carry_out(self, drive: int, orders: Sequence[control_pb2.FreeLayer]) -> None:
        """Let a drive that was just opened catch up with orders, durably."""
        async with asyncio.timeout(ORDER_DEADLINE_S):
            for order in orders:
                done = await self._controls.request(
                    drive, {"what": "free_layer", "layer": order.layer}
                )
                if not done["ok"]:
                    raise UnavailableError(f"order {order.order} failed: {done['reason']}")

    async def result(self, command: control_pb2.Command) -> control_pb2.CommandResult:
        """Carry one out; what fails is a result too."""
        kind = command.WhichOneof("kind")
        handlers: dict[str, Callable[[Any], Coroutine[Any, Any, control_pb2.CommandResult]]] = {
            "fence": self._fence,
            "quiesce": self._quiesce,
            "free_layer": self._free_layer,
            "scrub": lambda scrub: self._scrub(command.id, scrub),
            "compare": lambda compare: self.compares.run(command.id, compare),
            "promise": self._promise,
            "probe": self._probe_drive,
            "look": self._look_at_devices,
            "exercise": self._exercise,
        }
        handler = handlers.get(kind or "")
        if handler is None:
            return control_pb2.CommandResult(code="failed", message="unknown command")
        limit_s = command.deadline_ms / 1000 or DEADLINE_DEFAULT_S
        try:
            async with asyncio.timeout(SCRUB_DEADLINE_S if kind == "scrub" else limit_s):
                return await handler(getattr(command, str(kind)))
        except (DrystoneError, TimeoutError) as error:
            known = error if isinstance(error, DrystoneError) else DeadlineError("too slow")
            code = known.code if known.code in ("drive_not_open", "busy") else "failed"
            return control_pb2.CommandResult(code=code, message=str(known)[:500])

    def _serving(self, numbers: Sequence[int]) -> list[DriveKeeper]:
        return [d for d in self._drives if d.state is DriveState.SERVING and d.number in numbers]

    def _open_nonce(self, number: int) -> int:
        """Of the open that serves; 0 = none does."""
        return next((d.nonce for d in self._serving([number])), 0)

    async def _each(
        self, numbers: Sequence[int], request: Mapping[str, object]
    ) -> list[tuple[int, Event]]:
        """Ask every open drive of these at once; those that fail are left out."""
        drives = self._serving(numbers)
        return [(n, a) for n, a in await self._ask(drives, request) if not isinstance(a, str)]

    async def _ask(
        self, drives: Sequence[DriveKeeper], request: Mapping[str, object]
    ) -> list[tuple[int, Event | str]]:
        """Each drive's answer, or its reason for none."""
        answers = await asyncio.gather(
            *(self._controls.request(d.number, request) for d in drives), return_exceptions=True
        )
        found: list[tuple[int, Event | str]] = []
        for drive, answer in zip(drives, answers, strict=True):
            if isinstance(answer, BaseException):
                found.append((drive.number, str(answer)))
            else:
                found.append((drive.number, answer if answer["ok"] else str(answer["reason"])))
        return found

    async def _fence(self, fence: control_pb2.Fence) -> control_pb2.CommandResult:
        await self._maps.wait_for(fence.map_revision)
        request = {
            "what": "fence",
            "volume": fence.volume,
            "generation": fence.generation,
            "nonce": fence.nonce,
        }
        answers = await self._ask(self._serving(fence.drives), request)
        revision = self._maps.revision
        return control_pb2.CommandResult(
            drives=[
                control_pb2.DriveDone(
                    drive=number, sealed_generation=event["sealed"] or 0, map_revision=revision
                )
                for number, event in answers
                if not isinstance(event, str)
            ],
            # No code: what was sealed counts. The reasons are for whoever waits for the rest.
            message="; ".join(f"drive {n}: {why}" for n, why in answers if isinstance(why, str)),
        )

    async def _quiesce(self, quiesce: control_pb2.Quiesce) -> control_pb2.CommandResult:
        if not self._serving([quiesce.drive]):
            # What is not open answers no reads: the promise holds by itself.
            return control_pb2.CommandResult()
        for pg in quiesce.pgs:
            request = {"what": "quiesce", "pool": pg.pool, "pg": pg.pg, "epoch": pg.epoch}
            done = await self._controls.request(quiesce.drive, request)
            if not done["ok"]:
                return control_pb2.CommandResult(code="failed", message=str(done["reason"]))
        return control_pb2.CommandResult()

    async def _free_layer(self, order: control_pb2.FreeLayer) -> control_pb2.CommandResult:
        done = await self._each(order.drives, {"what": "free_layer", "layer": order.layer})
        revision = self._maps.revision
        drives = [control_pb2.DriveDone(drive=n, map_revision=revision) for n, _ in done]
        return control_pb2.CommandResult(drives=drives)

    async def _promise(self, promise: control_pb2.Promise) -> control_pb2.CommandResult:
        if self._votes is None:
            # Nobody here promises anything; the beacon process is asked when it is connected.
            return control_pb2.CommandResult(code="failed", message="the beacon is another process")
        return await self._votes.promise(promise)

    async def _look_at_devices(self, _: control_pb2.LookAtDevices) -> control_pb2.CommandResult:
        await self._look()
        return control_pb2.CommandResult()

    async def _probe_drive(self, probe: control_pb2.ProbeDrive) -> control_pb2.CommandResult:
        for keeper in self._drives:
            if keeper.number == probe.drive and keeper.state is DriveState.FAILED:
                return control_pb2.CommandResult(code=FAILED_CODE, message=keeper.reason)
        if not self._serving([probe.drive]):
            raise UnavailableError(f"drive {probe.drive} is not open", code="drive_not_open")
        status = await self._probe(probe.drive)
        if status is None:
            return control_pb2.CommandResult(
                code="failed", message=f"the thread of drive {probe.drive} does not answer"
            )
        return control_pb2.CommandResult(probe=status)

    async def _exercise(self, asked: control_pb2.Exercise) -> control_pb2.CommandResult:
        if not self._serving([asked.drive]):
            raise UnavailableError(f"drive {asked.drive} is not open", code="drive_not_open")
        done = await self._controls.request(asked.drive, {"what": "exercise"})
        if not done["ok"]:
            return control_pb2.CommandResult(code="failed", message=str(done["reason"]))
        found = control_pb2.Exercised(p99_us=done["p99_us"], errors=done["errors"])
        return control_pb2.CommandResult(exercise=found)

    async def _scrub(self, command: int, scrub: control_pb2.Scrub) -> control_pb2.CommandResult:
        found = self._serving([scrub.drive])
        if not found:
            raise UnavailableError(f"drive {scrub.drive} is not open", code="drive_not_open")
        if scrub.drive in self._scrubs:
            raise UnavailableError(f"drive {scrub.drive} is being scrubbed", code="busy")
        future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
        self._scrubs[scrub.drive] = future
        try:
            done = await self._controls.request(scrub.drive, {"what": "scrub"})
            if not done["ok"]:
                return control_pb2.CommandResult(code="failed", message=str(done["reason"]))
            while not future.done():
                if not self._serving([scrub.drive]):
                    # Its engine is gone and will report nothing; another scrub must be possible.
                    return control_pb2.CommandResult(
                        code="drive_not_open", message=found[0].reason or "the drive was closed"
                    )
                done_blocks, blocks = self._read.get(scrub.drive, (0, 0))
                progress = control_pb2.ScrubProgress(
                    bytes_done=done_blocks * BLOCK_BYTES, bytes_total=blocks * BLOCK_BYTES
                )
                self._answer(control_pb2.CommandResult(id=command, more=True, scrub=progress))
                await asyncio.wait((future,), timeout=SCRUB_NEWS_S)
            event = future.result()
        finally:
            del self._scrubs[scrub.drive]
            self._read.pop(scrub.drive, None)
        return control_pb2.CommandResult(
            scrub=control_pb2.ScrubProgress(
                bytes_done=event["blocks"] * BLOCK_BYTES,
                bytes_total=event["blocks"] * BLOCK_BYTES,
                bad_blocks=event["bad"],
                healed_blocks=event["healed"],
            )
        )
