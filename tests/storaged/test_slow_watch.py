"""Slow drives in a whole manager: dropped, tested, back, and out for good after three times."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drystone_storaged.cluster import health as book
from drystone_storaged.cluster import pgmap
from drystone_storaged.cluster.records import DriveState
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import Peer, insync, peers, until

SLOW_US = 50_000


class Clock:
    """The time at which reports come; a test moves it."""

    def __init__(self, mgr) -> None:
        self.now = mgr.services.env.monotonic()
        mgr.services.stats._monotonic = lambda: self.now


@pytest.fixture
def clock(mgr) -> Clock:
    return Clock(mgr)


@pytest.fixture(autouse=True)
def soon(monkeypatch) -> None:
    """Tests of drives are due at once."""
    monkeypatch.setattr(book, "PAUSES_S", (0.0,))


async def state_of(mgr, number: int = 1) -> DriveState:
    return (await mgr.services.feed.read()).drives[number].state


async def shown(mgr, number: int = 1) -> dict:
    answer = await mgr.http.get(f"/v1/drives/{number}")
    return answer.json()


async def tell(mgr, clock: Clock, made: list[Peer], slow: set[int], seconds: int = 20) -> None:
    """Reports of every server each five seconds; drives in ``slow`` are that."""
    servers = [p for p in made if p.role == "server"]
    for _ in range(0, seconds + 5, 5):
        clock.now += 5
        for peer in servers:
            await peer.reports(SLOW_US if peer.drive in slow else 1_000)

        def heard() -> bool:
            found = (mgr.services.stats.get(p.drive) for p in servers)
            return all(f is not None and f.at_s == clock.now for f in found)

        await until(heard, "the reports")
        await until(lambda: None not in mgr.services.slow._sick.values(), "the tests")


async def is_dropped(mgr, made, number: int = 1) -> bool:
    out = all(number not in members for members in insync(await made[-1].map()))
    return out and await state_of(mgr, number) is DriveState.DOWN


async def copied(made: list[Peer], number: int = 1) -> None:
    """The drive joined everywhere; its copies are complete."""
    peer = next(p for p in made if p.drive == number and p.role == "server")

    def records(found: pgmap.ClusterMap):
        return [r for s in found.pools[0].shards for r in pgmap.decode_shard(s)]

    async def joined() -> bool:
        return all(number in r.members() for r in records(await peer.map()))

    await until(joined, "the joins")
    pgs = [
        pb.Pg(pool=1, pg=n, epoch=r.epoch)
        for n, r in enumerate(records(await peer.map()))
        if r.joiner(number)
    ]
    await peer.call("CopyComplete", pb.CopyCompleteRequest(drive=number, nonce=peer.nonce, pgs=pgs))


async def test_a_drive_that_is_slow_for_15_s_is_dropped_tested_and_returns_three_times_and_is_out(
    mgr, clock
):
    async with peers(mgr, 3, 1, pg_count=16) as made:
        victim = made[0]
        for strike in (1, 2, 3):
            victim.tested_us = SLOW_US
            await tell(mgr, clock, made, {1})
            await until(lambda: is_dropped(mgr, made), "the drop")
            found = await shown(mgr)
            assert len(found["strikes"]) == strike
            assert "slow: 50.0 ms" in found["strikes"][-1]["reason"]
            if strike < 3:
                victim.tested_us = 500
                mgr.services.retests.bell.ring()
                await until(lambda: _is(mgr, DriveState.UP), "its return")
                await copied(made)
        assert found["ejected"]
        victim.tested_us = 500
        await victim.ready()
        await mgr.services.retests.look()
        assert await state_of(mgr) is DriveState.DOWN
        problems = [p["code"] for p in (await mgr.status())["problems"]]
        assert "drive_ejected" in problems
        before = (await mgr.services.health.load())[1]
        test = await retested(mgr)
        assert test["state"] == "done"
        assert "it is ejected and stays out, `drystone drive retest 1 --forgive`" in test["message"]
        assert await state_of(mgr) is DriveState.DOWN
        assert (await mgr.services.health.load())[1] == before, "it did not fail"
        test = await retested(mgr, "?forgive=true")
        assert test["state"] == "done"
        assert "ejected" not in test["message"]
        assert await state_of(mgr) is DriveState.UP
        assert (await shown(mgr))["strikes"] == []


async def retested(mgr, query: str = "") -> dict:
    """How a test ended that a person asked for."""
    answer = await mgr.http.post(f"/v1/drives/1/retest{query}")
    assert answer.status_code == 202, answer.text
    path = f"/v1/tasks/{answer.json()['id']}"

    async def ended() -> bool:
        return (await mgr.http.get(path)).json()["state"] != "running"

    await until(ended, "the test")
    return (await mgr.http.get(path)).json()


async def _is(mgr, wanted: DriveState, number: int = 1) -> bool:
    return await state_of(mgr, number) is wanted


async def test_all_drives_slow_together_drops_nobody(mgr, clock):
    async with peers(mgr, 3, 1, pg_count=16) as made:
        for peer in made[:3]:
            peer.tested_us = SLOW_US
        await tell(mgr, clock, made, set(), 10)
        await tell(mgr, clock, made, {1, 2, 3}, 60)
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))
        assert not mgr.services.slow.slow()


async def test_a_drive_that_is_slow_by_its_load_and_passes_its_test_stays(mgr, clock):
    async with peers(mgr, 3, 1, pg_count=16) as made:
        await tell(mgr, clock, made, {1}, 60)
        assert any(c.WhichOneof("kind") == "exercise" for c in made[0].commands)
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))
        assert (await shown(mgr))["strikes"] == []


async def test_a_slow_drive_stays_where_fewer_copies_than_writes_need_would_be_left(mgr, clock):
    async with peers(mgr, 3, 1, pg_count=16) as made:
        await mgr.http.patch("/v1/pools/default", json={"min_insync": 3})
        made[0].tested_us = SLOW_US
        await tell(mgr, clock, made, {1}, 60)
        assert all(members == {1, 2, 3} for members in insync(await made[-1].map()))
        assert 1 in mgr.services.slow.slow()


async def test_a_drive_that_does_not_pass_stays_out_whatever_its_server_says(mgr, clock):
    async with peers(mgr, 3, 1, pg_count=16) as made:
        made[0].tested_us = SLOW_US
        await tell(mgr, clock, made, {1})
        await until(lambda: is_dropped(mgr, made), "the drop")
        await made[0].ready()
        await mgr.services.retests.look()
        assert await is_dropped(mgr, made)
        found = await shown(mgr)
        assert found["retest"]["tries"] >= 1
        assert "50.0 ms" in found["retest"]["last"]
        assert "has to pass a test" in found["reason"]
        # Opened anew by a server that was restarted, it owes the test all the same.
        await made[0].open_drive(nonce=8, previous=7)
        assert await state_of(mgr) is DriveState.DOWN
        made[0].tested_us = 500
        await until(lambda: _tested(mgr), "its return")


async def _tested(mgr) -> bool:
    await mgr.services.retests.look()
    return await _is(mgr, DriveState.UP)


async def test_what_is_held_against_a_drive_survives_a_change_of_leaders(mgr, clock):
    async with peers(mgr, 3, 1, pg_count=16) as made:
        made[0].tested_us = SLOW_US
        await tell(mgr, clock, made, {1})
        await until(lambda: is_dropped(mgr, made), "the drop")
        mgr.services._forget()
        assert not mgr.services.health.known
        await mgr.services.take_over()
        assert mgr.services.health.known[1].held
        await made[0].ready()
        assert await state_of(mgr) is DriveState.DOWN


async def test_a_drive_that_could_not_be_dropped_serves_again_without_a_test(mgr, clock):
    async with peers(mgr, 3, 1, pg_count=16) as made:
        made[0].tested_us = SLOW_US
        state = await mgr.services.feed.read()
        blow = await mgr.services.health.blow(1, "drive hangs", may_eject=True)
        await mgr.services.drives.set_down(
            {1: state.drive_revisions[1]}, "drive hangs", ended=False, blow=blow
        )
        mgr.services.health.wrote(blow.health)
        assert await state_of(mgr) is DriveState.DOWN
        await made[0].ready()
        assert await state_of(mgr) is DriveState.UP


async def test_a_drop_for_a_hang_is_a_strike(mgr):
    async with peers(mgr, 3, 1, pg_count=16) as made:
        victim, client = made[0], made[-1]
        victim.tested_us = SLOW_US
        answer = victim._answer

        def hung(command):
            result = answer(command)
            if command.WhichOneof("kind") == "probe":
                result.probe.oldest_io_us = 2_000_000
            return result

        victim._answer = hung  # type: ignore[method-assign]
        report = pb.ReportFailureRequest(drive=1, kind=pb.FAILURE_KIND_STALL, drive_nonce=7)
        await client.call("ReportFailure", report)
        await until(lambda: is_dropped(mgr, made), "the drop")
        assert [s["reason"] for s in (await shown(mgr))["strikes"]] == ["drive hangs"]


async def test_a_test_that_fails_by_itself_keeps_no_drive_from_the_next_one(mgr, clock):
    watch = mgr.services.slow
    state = await mgr.services.feed.read()

    class Broken:
        async def test(self, *_args):
            raise RuntimeError("of any kind")

    class Sick:
        id = 1

    watch._deps = replace(watch._deps, tester=Broken())
    watch._sick[1] = None
    with pytest.raises(RuntimeError):
        await watch._test(state, Sick())
    assert 1 not in watch._sick
