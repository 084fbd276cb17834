"""Events of the native side are delivered; when some were lost the daemon ends and says so."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path

import pytest

from drystone_common.errors import InvariantError, UnavailableError
from drystone_storaged.agent.process import Background
from drystone_storaged.agent.pump import EVENTS_MAX, Pump

MAILBOX = Path(__file__).parents[2] / "storaged/native/crates/link/src/mailbox.rs"


def test_both_sides_agree_when_events_may_have_been_lost():
    found = re.search(r"const EVENTS_MAX: usize = ([\d_]+);", MAILBOX.read_text())
    assert found
    assert int(found[1]) == EVENTS_MAX


class FakeCore:
    """An event file and what is behind it."""

    def __init__(self) -> None:
        self._ready, self._wake = os.pipe()
        self.waiting: list[str] = []

    def put(self, *events: object) -> None:
        self.waiting += [json.dumps(event) for event in events]
        os.write(self._wake, b"x")

    def event_fd(self) -> int:
        return self._ready

    def events(self) -> list[str]:
        taken, self.waiting = self.waiting, []
        if taken:
            os.read(self._ready, 64)
        return taken

    def close(self) -> None:
        os.close(self._ready)
        os.close(self._wake)


@pytest.fixture
def core():
    made = FakeCore()
    yield made
    made.close()


async def ended(pump: Pump) -> None:
    """As in a daemon: whatever ends one of its tasks ends it."""
    background = Background()
    background.start(pump.failure(), "events")
    try:
        async with asyncio.timeout(20):
            await background.failure()
    finally:
        pump.stop()
        await background.stop()


async def test_events_are_delivered_by_kind_whenever_they_come(core):
    seen: asyncio.Queue[int] = asyncio.Queue()
    pump = Pump(core, {"a": lambda e: seen.put_nowait(e["n"])})
    core.put({"kind": "a", "n": 1})
    pump.start()
    core.put({"kind": "a", "n": 2})
    async with asyncio.timeout(20):
        assert [await seen.get(), await seen.get()] == [1, 2]
    pump.stop()


async def test_a_handler_that_fails_keeps_no_event_from_the_others(core):
    seen: list[object] = []

    def handle(event):
        seen.append(event["n"])
        if event["n"] == 1:
            raise ValueError

    pump = Pump(core, {"a": handle})
    core.put({"kind": "a", "n": 1}, {"kind": "a", "n": 2})
    pump.start()
    assert seen == [1, 2]
    pump.stop()


async def test_a_daemon_that_lost_events_ends_and_says_so(core):
    seen: list[object] = []
    pump = Pump(core, {"a": seen.append})
    pump.start()
    core.put(*({"kind": "a"} for _ in range(EVENTS_MAX)))
    with pytest.raises(UnavailableError) as caught:
        await ended(pump)
    assert caught.value.code == "events_lost"
    assert not seen, "what is left makes no sense without what was lost"


async def test_events_lost_before_the_start_end_the_daemon_too(core):
    core.put(*({"kind": "a"} for _ in range(EVENTS_MAX)))
    pump = Pump(core, {"a": lambda _: None})
    pump.start()
    with pytest.raises(UnavailableError):
        await ended(pump)


async def test_an_event_of_an_unknown_kind_ends_the_daemon(core):
    pump = Pump(core, {})
    pump.start()
    core.put({"kind": "b"})
    with pytest.raises(InvariantError):
        await ended(pump)
