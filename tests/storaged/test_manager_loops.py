"""The manager's loops sleep while nothing happens, and wake for everything that makes work."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any

import pytest

from drystone_common.errors import UnavailableError
from drystone_storaged.cluster.leadership import TTL_S, Leadership
from drystone_storaged.cluster.membership_service import Changed
from drystone_storaged.cluster.store_sqlite import SqliteStore
from drystone_storaged.manager import joins as joining
from drystone_storaged.manager.bell import BACKSTOP_S, Bell
from drystone_storaged.manager.joins import Backoff, JoinLoop
from drystone_storaged.manager.leader import LeaderLoop
from drystone_storaged.manager.rest.server import listen_rest
from drystone_storaged.manager.settings import ManagerSettings
from tests.storaged.manager_env import manager, peers, until


@contextlib.asynccontextmanager
async def running(loop):
    task = asyncio.create_task(loop)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


class Now:
    """A clock in the test's hands."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class FakeMembership:
    """Counts how often somebody looks for joins."""

    def __init__(self) -> None:
        self.excluded: list[set[int]] = []
        self.fail = 0
        self.refills = 0

    async def refill(self) -> Changed:
        self.refills += 1
        return Changed(1, ())

    async def join_wanted(self, *, exclude) -> Changed:
        self.excluded.append(set(exclude))
        if self.fail:
            self.fail -= 1
            raise UnavailableError("the store is away")
        return Changed(1, ())


def join_loop(backoff: Backoff, *, leads: bool = True) -> tuple[JoinLoop, FakeMembership, Any]:
    membership, leadership = FakeMembership(), SimpleNamespace(leads=leads)
    loop = JoinLoop(membership, leadership, backoff, membership.refill)  # type: ignore[arg-type]
    return loop, membership, leadership


async def test_a_ring_before_the_wait_is_not_lost_and_counts_once():
    bell = Bell()
    bell.ring()
    bell.ring()
    async with asyncio.timeout(20):
        await bell.wait()
    waits = asyncio.create_task(bell.wait())
    await asyncio.sleep(0)
    assert not waits.done()
    bell.ring()
    async with asyncio.timeout(20):
        await waits


async def test_a_wait_ends_at_its_limit():
    async with asyncio.timeout(20):
        await Bell().wait(0.001)


def test_the_next_end_of_a_pause_is_known():
    now = Now()
    backoff = Backoff(now)
    assert backoff.next_end_s() == BACKSTOP_S
    backoff.failed(1)
    now.now += 0.5
    backoff.failed(2)
    assert backoff.next_end_s() == joining.BACKOFF_S - 0.5
    now.now += 100
    assert backoff.next_end_s() == BACKSTOP_S, "a pause that ended is none"


async def test_a_drive_joins_when_its_pause_ends_and_nobody_rings(monkeypatch):
    monkeypatch.setattr(joining, "BACKOFF_S", 0.05)
    loop = asyncio.get_running_loop()
    joins, membership, _ = join_loop(Backoff(loop.time))
    joins.hold_back(7)
    async with running(joins.run()):
        await until(lambda: membership.excluded and not membership.excluded[-1], "the join")
    assert membership.excluded[0] == {7}


async def test_a_join_that_failed_is_tried_again(monkeypatch):
    monkeypatch.setattr(joining, "RETRY_S", 0.01)
    joins, membership, _ = join_loop(Backoff(Now()))
    membership.fail = 2
    async with running(joins.run()):
        await until(lambda: len(membership.excluded) == 3, "the third try")


async def test_nobody_joins_before_this_manager_leads_and_then_at_once():
    joins, membership, leadership = join_loop(Backoff(Now()), leads=False)
    async with running(joins.run()):
        joins.bell.ring()
        await asyncio.sleep(0)
        assert not membership.excluded
        leadership.leads = True
        joins.bell.ring()
        await until(lambda: membership.excluded, "a look")
    assert membership.refills == len(membership.excluded), "places are filled before the joins"


@pytest.fixture
async def store(tmp_path):
    made = await SqliteStore.open(tmp_path / "m.db")
    yield made
    await made.close()


class Leases:
    """A store that notes for how long leases are asked."""

    def __init__(self, inner: SqliteStore, *, shared: bool) -> None:
        self._inner = inner
        self.shared = shared
        self.asked: list[float] = []

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    async def lease_grant(self, ttl_s: float) -> int:
        self.asked.append(ttl_s)
        return await self._inner.lease_grant(ttl_s)


@pytest.mark.parametrize("shared", [True, False])
async def test_only_in_a_shared_store_the_lease_is_short(store, shared):
    leases = Leases(store, shared=shared)
    assert await Leadership(leases, "m").campaign()
    assert (leases.asked == [TTL_S]) is shared


async def test_leadership_that_was_lost_is_sought_again_without_waiting_for_the_lease(store):
    leadership = Leadership(store, "m")
    elected, started = [], []

    async def prepare() -> None:
        elected.append((leadership.holds, leadership.leads))

    loop = LeaderLoop(leadership, prepare, lambda: started.append(leadership.leads))
    async with running(loop.run()):
        await until(lambda: len(started) == 1, "the first election")
        await leadership.resign()
        await until(lambda: len(started) == 2, "the second election")
    assert elected == [(True, False)] * 2, "nobody acts before everything is prepared"
    assert started == [True, True]


async def test_a_drive_that_became_droppable_is_dropped_when_another_one_comes(tmp_path):
    async with manager(tmp_path) as mgr, peers(mgr, 3, 0):
        # Nothing is wrong: the loop sleeps, and only a ring or the backstop wakes it.
        assert await mgr.services.judge.sweep() is False
        state = await mgr.services.feed.read()
        looked = mgr.services.judge.sweep
        looks: list[bool] = []

        async def counted() -> bool:
            looks.append(await looked())
            return looks[-1]

        mgr.services.judge.sweep = counted
        await mgr.services.drives.set_down({1: state.drive_revisions[1]}, "a test", ended=True)
        await until(lambda: True in looks, "a look that finds the drive")

        async def dropped():
            pgs = (await mgr.services.feed.read()).pgs()
            return all(1 not in record.insync for record in pgs.values())

        await until(dropped, "the drop that nobody asked for")


async def test_answers_carry_the_date_and_an_idle_server_stops_at_once(tmp_path):
    async with manager(tmp_path) as mgr:
        answer = await mgr.http.get("/v1/health")
        assert parsedate_to_datetime(answer.headers["date"]).tzinfo is not None


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_answers_never_wait_for_a_delayed_acknowledgement(tmp_path, host):
    try:
        listener = listen_rest(ManagerSettings(state_dir=tmp_path, rest_listen=f"{host}:0"))
    except Exception as error:  # noqa: BLE001 - whatever keeps IPv6 from us here
        pytest.skip(f"cannot listen on {host}: {error}")
    with listener, socket.create_connection(listener.getsockname()[:2]):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
