"""What a beacon reports to the manager, with a control channel that can lose answers."""

from __future__ import annotations

import asyncio
import contextlib

from drystone_common.errors import UnavailableError
from drystone_storaged.agent import silence
from drystone_storaged.agent.silence import Silence
from drystone_storaged.proto import control_pb2
from tests.storaged.fake_native import FakeBeaconCore
from tests.storaged.manager_env import until


class LossyControl:
    """Loses the answers of the first calls."""

    def __init__(self, lost: int) -> None:
        self._lost = lost
        self.versions: list[int] = []

    async def call(self, _method, request, **_bounds):
        self.versions.append(request.voters_version)
        if len(self.versions) <= self._lost:
            raise UnavailableError("lost", code="deadline_exceeded")
        return control_pb2.Ack()


@contextlib.asynccontextmanager
async def reporting(control: LossyControl):
    reporter = Silence(FakeBeaconCore(), control)  # type: ignore[arg-type]
    task = asyncio.create_task(reporter.run())
    try:
        yield reporter
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_report_that_was_not_answered_is_said_again_with_nobody_silent(monkeypatch):
    monkeypatch.setattr(silence, "RETRY_S", 0.01)
    control = LossyControl(lost=2)
    async with reporting(control) as reporter:
        reporter.voters(control_pb2.Voters(version=7))

        async def answered():
            return len(control.versions) == 3

        await until(answered, "the third try")
    assert control.versions == [7, 7, 7]


async def test_a_report_that_was_answered_is_not_repeated_while_nobody_is_silent(monkeypatch):
    monkeypatch.setattr(silence, "RETRY_S", 0.01)
    control = LossyControl(lost=0)
    async with reporting(control) as reporter:
        reporter.voters(control_pb2.Voters(version=7))
        reporter.voters(control_pb2.Voters(version=8))

        async def told():
            return control.versions[-1:] == [8]

        await until(told, "the newest version")
        said = len(control.versions)
        for _ in range(10):
            await asyncio.sleep(silence.RETRY_S)
        assert len(control.versions) == said
