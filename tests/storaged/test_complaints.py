"""One consumer that does not reach a joiner keeps it out no longer, and does not wait for ever."""

from __future__ import annotations

import pytest

from drystone_storaged.manager import complaints as rules
from drystone_storaged.manager.complaints import Complaints
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import peers, until

DRIVE, BLOCK = 2, "b1"


def test_the_first_complaint_of_each_reporter_counts():
    seen = Complaints()
    assert seen.is_first(DRIVE, BLOCK, "block-1", 0.0)
    assert not seen.is_first(DRIVE, BLOCK, "block-1", 1.0)
    assert seen.is_first(DRIVE, "b2", "block-2", 1.0)
    assert seen.is_first(3, BLOCK, "block-1", 1.0)


def test_a_reporter_that_was_quiet_is_believed_again():
    seen = Complaints()
    seen.is_first(DRIVE, BLOCK, "block-1", 0.0)
    assert not seen.is_first(DRIVE, BLOCK, "block-1", rules.FORGET_S)
    assert not seen.is_first(DRIVE, BLOCK, "block-1", 2 * rules.FORGET_S)
    assert seen.is_first(DRIVE, BLOCK, "block-1", 3 * rules.FORGET_S + 1)


def test_a_copy_that_goes_on_is_left_alone_for_as_long_as_it_takes():
    seen = Complaints()
    seen.is_first(DRIVE, BLOCK, "block-1", 0.0)
    for second in range(1, 1000):
        assert not seen.is_first(DRIVE, BLOCK, "block-1", second)
        assert not seen.is_stuck(DRIVE, BLOCK, (second // 10, 5), second)


def test_a_copy_without_progress_is_given_up_and_its_reporter_believed_for_a_while():
    seen = Complaints()
    seen.is_first(DRIVE, BLOCK, "block-1", 0.0)
    assert not seen.is_stuck(DRIVE, BLOCK, (7, 5), 1.0)
    assert not seen.is_stuck(DRIVE, BLOCK, (7, 5), 1.0 + rules.STUCK_S)
    given_up = 2.0 + rules.STUCK_S
    assert seen.is_stuck(DRIVE, BLOCK, (7, 5), given_up)
    assert seen.is_first(DRIVE, BLOCK, "block-1", given_up + 30)
    assert seen.is_first(DRIVE, BLOCK, "block-1", given_up + 60)
    at_s = given_up + 60
    while at_s < given_up + rules.BELIEVED_S:
        at_s += 30
        last = seen.is_first(DRIVE, BLOCK, "block-1", at_s)
    assert not last, "then the next copy gets its chance"


def test_a_placement_group_less_to_join_is_progress_too():
    seen = Complaints()
    seen.is_first(DRIVE, BLOCK, "block-1", 0.0)
    for step in range(10):
        assert not seen.is_stuck(DRIVE, BLOCK, (0, 10 - step), step * rules.STUCK_S)


def test_the_next_copy_begins_anew():
    seen = Complaints()
    seen.is_first(DRIVE, BLOCK, "block-1", 0.0)
    assert not seen.is_stuck(DRIVE, BLOCK, (7, 5), 1.0)
    assert seen.unreached(2.0) == [("block-1", DRIVE)]
    seen.dropped(DRIVE)
    assert seen.unreached(2.0) == []
    assert not seen.is_stuck(DRIVE, BLOCK, (7, 5), 100.0)


def test_too_many_reporters_are_forgotten_and_so_believed(monkeypatch):
    monkeypatch.setattr(rules, "PAIRS_MAX", 3)
    seen = Complaints()
    for number in range(10):
        assert seen.is_first(DRIVE, f"b{number}", "block", 0.0)
    assert len(seen._known) <= 3


async def joining(mgr, made):
    """Drive 2 of `made[1]` was dropped, is back, and joins everything."""
    await made[1].ready(pb.DRIVE_STATE_CLOSED)
    await made[1].ready()

    async def joins():
        pgs = (await mgr.services.feed.read()).pgs().values()
        return all(pg.joiner(made[1].drive) for pg in pgs)

    await until(joins, "the join")


async def complain(mgr, peer, victim, kind=pb.FAILURE_KIND_STALL):
    reporter = await mgr.services.nodes.by_uuid(peer.role, peer.uuid.hex())
    await mgr.services.judge.client_report(victim.drive, kind, victim.nonce, reporter)


async def is_joining(mgr, victim) -> bool:
    pgs = (await mgr.services.feed.read()).pgs().values()
    return any(pg.joiner(victim.drive) for pg in pgs)


@pytest.fixture
def eager(monkeypatch):
    """A joiner that failed may soon try again."""
    monkeypatch.setattr("drystone_storaged.manager.joins.BACKOFF_S", 0.1)


async def test_a_consumer_that_alone_does_not_reach_a_joiner_drops_it_once(mgr, eager):
    async with peers(mgr, 3, 2) as made:
        victim, lone, other = made[1], made[3], made[4]
        await joining(mgr, made)
        epochs = [pg.epoch for pg in (await mgr.services.feed.read()).pgs().values()]
        await complain(mgr, lone, victim)
        await until(lambda: is_joining(mgr, victim), "it joins again")
        again = [pg.epoch for pg in (await mgr.services.feed.read()).pgs().values()]
        assert all(now >= before + 2 for now, before in zip(again, epochs, strict=True))
        for _ in range(3):
            await complain(mgr, lone, victim)
        assert [pg.epoch for pg in (await mgr.services.feed.read()).pgs().values()] == again
        issues = "\n".join((await mgr.status())["issues"])
        assert "block-1 does not reach drive 2 on node-2" in issues
        await complain(mgr, other, victim)
        now = [pg.epoch for pg in (await mgr.services.feed.read()).pgs().values()]
        assert all(n > a for n, a in zip(now, again, strict=True)), "another one's first"


@pytest.mark.parametrize("how", ["error", "hangs", "silent"])
async def test_a_joiner_that_is_not_well_is_dropped_at_every_complaint(mgr, eager, how):
    async with peers(mgr, 3, 1) as made:
        victim, client = made[1], made[3]
        await joining(mgr, made)
        await complain(mgr, client, victim)
        await until(lambda: is_joining(mgr, victim), "it joins again")
        before = [pg.epoch for pg in (await mgr.services.feed.read()).pgs().values()]
        if how == "hangs":
            answer = victim._answer

            def hung(command):
                result = answer(command)
                if command.WhichOneof("kind") == "probe":
                    result.probe.oldest_io_us = 2_000_000
                return result

            victim._answer = hung  # type: ignore[method-assign]
        victim.answers = how != "silent"
        kind = pb.FAILURE_KIND_ERROR if how == "error" else pb.FAILURE_KIND_STALL
        await complain(mgr, client, victim, kind)
        after = [pg.epoch for pg in (await mgr.services.feed.read()).pgs().values()]
        assert all(a > b for a, b in zip(after, before, strict=True))
