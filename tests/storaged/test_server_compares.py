"""A server compares: its progress, what was told, and a drive that closes meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from drystone_common.errors import UnavailableError
from drystone_storaged.proto import control_pb2 as pb
from drystone_storaged.server.compares import EXAMPLES_MAX, Compares

SEEN = {"chunks": 2, "blocks": 9, "unstable": 1, "bad_here": 0, "bad_there": 0, "divergent": 1}
ASK = pb.Compare(drive=4, pool=1, pg=3)
HELD = {"kind": "data", "generation": 1, "sequence": 7}


class Engine:
    """Answers when the test says so."""

    def __init__(self):
        self.nonce = 11
        self.asked: list[tuple[int, dict]] = []
        self.answers: list[pb.CommandResult] = []
        self.done: asyncio.Future = asyncio.get_running_loop().create_future()
        self.compares = Compares(self.request, lambda _: self.nonce, self.answers.append)

    async def request(self, drive, request):
        self.asked.append((drive, dict(request)))
        return await self.done

    def divergent(self, block: int) -> None:
        self.compares.on_divergent({
            "drive": 4, "volume": 1, "layer": 16, "chunk": 0, "block": block, "other": 2,
            "ours": HELD, "theirs": None,
        })  # fmt: skip

    async def begun(self) -> asyncio.Task:
        task = asyncio.create_task(self.compares.run(77, ASK))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return task


async def test_a_comparison_is_answered_with_what_was_told_each_block_once():
    engine = Engine()
    task = await engine.begun()
    assert engine.asked == [(4, {"what": "compare", "pool": 1, "pg": 3})]
    assert [(a.id, a.more) for a in engine.answers] == [(77, True)]
    for block in (5, 5, 6):
        engine.divergent(block)
    engine.done.set_result({"ok": True, "compared": SEEN})
    result = await task
    assert (result.code, result.compared.blocks, result.compared.divergent) == ("", 9, 1)
    told = [(one.block, one.drive, one.here, one.there) for one in result.compared.examples]
    assert told == [
        (5, 2, "data of version 1.7", "nothing"),
        (6, 2, "data of version 1.7", "nothing"),
    ]
    # The next one begins with nothing.
    engine.divergent(9)
    engine.done = asyncio.get_running_loop().create_future()
    task = await engine.begun()
    engine.done.set_result({"ok": True, "compared": SEEN})
    assert not (await task).compared.examples


async def test_no_more_examples_are_kept_than_the_engine_tells():
    engine = Engine()
    task = await engine.begun()
    for block in range(2 * EXAMPLES_MAX):
        engine.divergent(block)
    engine.done.set_result({"ok": True, "compared": SEEN})
    assert len((await task).compared.examples) == EXAMPLES_MAX


async def test_a_refusal_of_the_drive_is_a_result():
    engine = Engine()
    task = await engine.begun()
    engine.done.set_result({"ok": False, "reason": "not in sync"})
    assert ((await task).code, (await task).message) == ("failed", "not in sync")


async def test_a_drive_compares_one_group_at_a_time_and_none_while_it_is_closed():
    engine = Engine()
    task = await engine.begun()
    with pytest.raises(UnavailableError) as caught:
        await engine.compares.run(78, ASK)
    assert caught.value.code == "busy"
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    engine.nonce = 0
    with pytest.raises(UnavailableError) as caught:
        await engine.compares.run(79, ASK)
    assert caught.value.code == "drive_not_open"


async def test_a_drive_that_was_opened_anew_meanwhile_answers_nothing(monkeypatch):
    monkeypatch.setattr("drystone_storaged.server.compares.NEWS_S", 0.001)
    engine = Engine()
    task = await engine.begun()
    engine.nonce = 12
    with pytest.raises(UnavailableError) as caught:
        await task
    assert caught.value.code == "drive_not_open"
