"""A server tells figures that changed, and again to everybody who is new."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drystone_storaged.server import status
from drystone_storaged.server.drive import DriveState
from drystone_storaged.server.rhythm import Rhythm
from drystone_storaged.server.status import StatusReporter
from drystone_storaged.server.stuck import StuckCopies, stuck_copy
from drystone_storaged.server.upcalls import BLANK, OF_JOINERS
from tests.storaged.fake_native import DRIVE_STATS
from tests.storaged.manager_env import until

ROOT = Path(__file__).resolve().parents[2]


class Core:
    """Figures in the test's hands."""

    def __init__(self) -> None:
        self.live = 1
        self.reads = 0
        self.counters: dict[str, int] = {}
        self.more: dict[str, Any] = {}

    def stats(self) -> str:
        self.reads += 1
        space = {"total_slots": 9, "live_slots": self.live, "granted_slots": 0, "reserve_slots": 0}
        counters = {**DRIVE_STATS["counters"], **self.counters}
        drive = {**DRIVE_STATS, **self.more, "counters": counters, "space": space}
        return json.dumps({"drives": {"3": drive}})


@pytest.fixture
def core():
    return Core()


@pytest.fixture
async def told(core, monkeypatch):
    """Statuses of a running reporter; its periods are short, its patience is not."""
    monkeypatch.setattr(status, "PERIOD_S", 0.01)
    monkeypatch.setattr(status, "HURRY_S", 0.001)
    monkeypatch.setattr(status, "UNCHANGED_S", 1e9)
    sent: list[Any] = []
    drives = [SimpleNamespace(number=3, state=DriveState.SERVING, refusal=None)]
    maps = SimpleNamespace(revision=0, data=b"")
    reporter = StatusReporter(core, drives, maps, sent.append)  # type: ignore[arg-type]
    task = asyncio.create_task(reporter.run())
    yield SimpleNamespace(reporter=reporter, sent=sent)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def quiet(core: Core, told: Any) -> int:
    """Wait until figures were read several times; gives how many statuses went out by then."""
    since = core.reads
    await until(lambda: core.reads >= since + 5, "five more reads")
    return len(told.sent)


async def test_what_did_not_change_is_told_once(core, told):
    before = await quiet(core, told)
    assert before >= 1
    assert await quiet(core, told) == before
    core.live = 5
    await until(lambda: len(told.sent) > before, "the change")
    assert told.sent[-1].status.drives[0].used_bytes == 5 * 4096


async def test_a_drive_that_has_become_slow_is_told_once_and_the_rhythm_knows(
    core, told, monkeypatch
):
    begins, became = Rhythm.begins, []

    def recorded(rhythm: Rhythm, now_s: float, *, slow: bool) -> None:
        became.append(slow)
        begins(rhythm, now_s, slow=slow)

    monkeypatch.setattr(Rhythm, "begins", recorded)
    await quiet(core, told)
    assert became
    assert not any(became)
    core.live = 3
    told.reporter.device_slowed()
    await until(lambda: told.sent[-1].status.drives[0].used_bytes == 3 * 4096, "its status")
    await quiet(core, told)
    assert became.count(True) == 1


async def test_a_slow_drive_is_told_also_where_its_figures_are_the_same(core, told):
    before = await quiet(core, told)
    core.more = {"device": {**DRIVE_STATS["device"], "p99_us": 50_000, "ops": 9, "slow": True}}
    await until(lambda: len(told.sent) > before + 4, "the same figures again")
    core.more = {}
    await until(lambda: told.sent[-1].status.drives[0].p99_us == 0, "it is well")
    before = await quiet(core, told)
    assert await quiet(core, told) == before


async def test_a_new_session_is_told_everything(core, told):
    before = await quiet(core, told)
    told.reporter.session_opened()
    await until(lambda: len(told.sent) > before, "the first status of the session")
    assert told.sent[before].status.layers_complete


async def test_unchanged_figures_are_repeated_before_they_count_as_history(core, told, monkeypatch):
    before = await quiet(core, told)
    monkeypatch.setattr(status, "UNCHANGED_S", 0.0)
    await until(lambda: len(told.sent) > before + 2, "repetitions")


def test_repetitions_come_before_the_manager_forgets():
    from drystone_storaged.manager.drivestats import STALE_S

    assert status.UNCHANGED_S + status.PERIOD_S < STALE_S


def stuck(pg: int, why: str = "lost", blocks: int = 70) -> dict[str, Any]:
    """What the engine says of a copy to drive 3 that does not go on."""
    where = {"drive": 3, "pool": 1, "pg": pg, "sources": [4, 5]}
    return {"kind": "report", "what": "copy_stuck", "blocks": blocks, "why": why, **where}


async def test_a_copy_that_does_not_go_on_is_told_in_a_sentence_until_it_does(core, told):
    before = await quiet(core, told)
    told.reporter.on_report(stuck(7))
    await until(lambda: len(told.sent) > before, "the stuck copy")
    (sentence,) = told.sent[-1].status.drives[0].stuck_copies
    for part in ("placement group 7", "drive 3", "70 blocks", "(4, 5)", "bring back a drive"):
        assert part in sentence
    assert told.reporter.stuck(3) == 1
    before = await quiet(core, told)
    told.reporter.on_report(stuck(7, "unreadable", 2))
    await until(lambda: len(told.sent) > before, "its other reason")
    assert "waits: no in-sync drive" in told.sent[-1].status.drives[0].stuck_copies[0]
    before = await quiet(core, told)
    told.reporter.on_report({"what": "copy_freed", "drive": 3, "pool": 1, "pg": 7})
    await until(lambda: len(told.sent) > before, "its end")
    assert not told.sent[-1].status.drives[0].stuck_copies
    assert told.reporter.stuck(3) == 0


def test_many_stuck_copies_are_counted_not_listed():
    copies = StuckCopies()
    for pg in range(20):
        copies.take(stuck_copy(stuck(pg)))
    sentences = list(copies.sentences())
    assert len(sentences) == 9
    assert sentences[-1].startswith("12 more copies")


def test_the_reasons_that_decide_how_a_drive_leaves_are_those_of_the_engine():
    source = (ROOT / "storaged/native/bindings/src/server_json.rs").read_text()
    said = re.findall(r'LeaveWhy::\w+ => "([^"]+)"', source)
    assert set(OF_JOINERS) <= set(said)
    for start in BLANK:
        assert any(text.startswith(start) for text in said), start


async def test_bad_blocks_are_those_healed_and_those_that_are_not(core, told):
    before = await quiet(core, told)
    core.counters = {"bad_found": 9, "healed": 5, "unhealed": 2}
    await until(lambda: len(told.sent) > before, "what changed")
    shown = told.sent[-1].status.drives[0]
    assert (shown.bad_blocks, shown.healed_blocks) == (7, 5), "two were written anew"


async def test_the_speed_of_the_device_and_what_is_left_to_copy_are_told(core, told):
    before = await quiet(core, told)
    device = {**DRIVE_STATS["device"], "p99_us": 900, "ops": 77}
    core.more = {"device": device, "resync_bytes_left": 4096}
    await until(lambda: len(told.sent) > before, "what changed")
    shown = told.sent[-1].status.drives[0]
    assert (shown.p99_us, shown.recent_ops, shown.resync_bytes_left) == (900, 77, 4096)
