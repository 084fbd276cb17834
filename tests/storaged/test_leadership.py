"""Who leads, and what a manager that does not lead cannot do."""

from __future__ import annotations

import asyncio

import pytest

from drystone_common.errors import UnavailableError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster import leadership as leading
from drystone_storaged.cluster.leadership import (
    Leadership,
    LeadershipLostError,
    NotLeaderError,
)
from drystone_storaged.cluster.store import Compare, Get, Put, StoreUnavailableError
from drystone_storaged.cluster.store_guarded import GuardedStore
from drystone_storaged.cluster.store_sqlite import SqliteStore
from drystone_storaged.manager.leader import LeaderLoop
from tests.storaged.manager_env import until
from tests.storaged.metadata_conformance import FakeClock, LossyStore


class Shared(LossyStore):
    """A store that two managers of this process use; its clock is in the test's hands."""

    shared = True
    hangs = False
    keepalives = 0

    def __init__(self, inner: SqliteStore, clock: FakeClock) -> None:
        super().__init__(inner)
        self.clock = clock

    async def lease_keepalive(self, lease: int) -> None:
        self.keepalives += 1
        if self.hangs:
            await asyncio.Event().wait()
        await self._inner.lease_keepalive(lease)


@pytest.fixture
async def store(tmp_path):
    clock = FakeClock()
    inner = await SqliteStore.open(tmp_path / "m.db", clock=clock)
    yield Shared(inner, clock)
    await inner.close()


async def leader(store: Shared, name: str = "m1") -> Leadership:
    made = Leadership(store, name)
    assert await made.campaign()
    made.begin()
    return made


def let_the_lease_end(store: Shared) -> None:
    store.clock.advance(leading.TTL_S + 1)


async def test_a_standby_tries_without_a_trace(store):
    await leader(store)
    other = Leadership(store, "m2")
    before = await store.revision()
    for _ in range(10):
        assert not await other.campaign()
    assert await store.revision() == before
    assert await other.leader() == "m1"
    let_the_lease_end(store)
    assert await other.campaign(), "its lease is as fresh as the first time"


async def test_an_election_is_not_yet_leading(store):
    made = Leadership(store, "m1")
    assert await made.campaign()
    assert (made.holds, made.leads) == (True, False)
    with pytest.raises(NotLeaderError) as caught:
        made.require()
    assert caught.value.code == "not_leader"
    made.begin()
    made.require()


async def test_an_election_whose_answer_was_lost_is_withdrawn_and_repeated(store):
    made = Leadership(store, "m1")
    store.lose_next = True
    with pytest.raises(StoreUnavailableError):
        await made.campaign()
    assert not made.holds
    assert (await store.get(keys.LEADER)).value == b"m1", "it did happen"
    assert await made.campaign()
    found = await store.get(keys.LEADER)
    assert made.compare() == Compare.created(keys.LEADER, found.create_revision)


async def test_belief_ends_with_the_lease_by_the_own_clock(store, monkeypatch):
    made = await leader(store)
    ended = []
    made.on_lost.append(lambda: ended.append(made.leads))
    later = asyncio.get_running_loop().time() + leading.TTL_S + 0.01
    monkeypatch.setattr(leading, "_now", lambda: later)
    with pytest.raises(NotLeaderError):
        made.require()
    assert ended == [False], "told once, when it is over"
    assert await made.campaign(), "its own old claim does not keep it out"


async def test_a_deposed_manager_writes_nothing_and_stops(store):
    made = await leader(store)
    ended = []
    made.on_lost.append(lambda: ended.append(1))
    guarded = GuardedStore(store, made)
    await guarded.txn([], [Put("/a", b"1")])
    let_the_lease_end(store)
    await leader(store, "m2")
    assert made.leads, "it cannot know"
    with pytest.raises(LeadershipLostError) as caught:
        await guarded.txn([], [Put("/a", b"2")])
    assert caught.value.code == "leadership_lost"
    assert (await store.get("/a")).value == b"1"
    assert (made.leads, ended) == (False, [1])
    with pytest.raises(LeadershipLostError):
        await guarded.txn([], [Put("/a", b"3")])
    assert ended == [1]


async def test_a_deposed_manager_writes_nothing_while_nobody_leads_either(store):
    made = await leader(store)
    let_the_lease_end(store)
    with pytest.raises(LeadershipLostError):
        await GuardedStore(store, made).txn([], [Put("/a", b"2")])
    assert await store.get("/a") is None


async def test_a_comparison_that_fails_for_another_reason_is_the_callers(store):
    made = await leader(store)
    guarded = GuardedStore(store, made)
    await guarded.txn([], [Put("/a", b"1")])
    done = await guarded.txn([Compare.absent("/a")], [Put("/a", b"2")], [Get("/a"), Get("/b")])
    assert not done.succeeded
    assert [found and found.value for found in done.reads] == [b"1", None]
    assert made.leads
    with_own = await guarded.txn([made.compare()], [Put("/a", b"3")])
    assert with_own.succeeded, "whoever compares the leader by himself may"


async def test_a_standby_reads_and_cannot_even_ask_to_write(store):
    await leader(store)
    guarded = GuardedStore(store, Leadership(store, "m2"))
    before = await store.revision()
    assert await guarded.get(keys.LEADER) is not None
    assert (await guarded.txn([Compare.absent("/a")], [])).succeeded
    with pytest.raises(NotLeaderError):
        await guarded.txn([], [Put("/a", b"1")])
    assert await store.revision() == before


async def test_a_failure_of_an_older_term_does_not_end_a_newer_one(store):
    made = await leader(store)
    old = made.compare()
    await made.resign()
    assert await made.campaign()
    made.begin()
    assert made.deposed(old).code == "leadership_lost"
    assert made.leads


async def test_a_manager_that_cannot_prepare_tries_again_and_does_not_lead_meanwhile(store):
    made = Leadership(store, "m1")
    tries: list[bool | str] = []

    async def prepare() -> None:
        tries.append(made.leads)
        if len(tries) < 3:
            raise UnavailableError("not yet")

    loop = LeaderLoop(made, prepare, lambda: tries.append("started"))
    for _ in range(2):
        with pytest.raises(UnavailableError):
            await loop.step()
        assert not made.leads
    await loop.step()
    assert made.leads
    assert tries == [False, False, False, "started"]


async def test_the_lease_is_kept_while_the_manager_prepares(store, monkeypatch):
    monkeypatch.setattr("drystone_storaged.manager.leader.KEEPALIVE_S", 0.01)
    made = Leadership(store, "m1")

    async def prepare() -> None:
        await until(lambda: store.keepalives >= 3, "three keepalives")

    async with asyncio.timeout(20):
        await LeaderLoop(made, prepare, lambda: None).step()
    assert made.leads


async def test_a_manager_deposed_while_it_prepares_never_leads(store, monkeypatch):
    monkeypatch.setattr("drystone_storaged.manager.leader.KEEPALIVE_S", 0.01)
    made = Leadership(store, "m1")

    async def prepare() -> None:
        let_the_lease_end(store)
        await asyncio.Event().wait()

    async with asyncio.timeout(20):
        await LeaderLoop(made, prepare, lambda: pytest.fail("it led")).step()
    assert not made.holds


async def test_a_store_that_hangs_ends_leadership_in_time(store, monkeypatch):
    monkeypatch.setattr(leading, "TTL_S", 0.2)
    monkeypatch.setattr(leading, "KEEPALIVE_S", 0.05)
    made, ended = Leadership(store, "m1"), asyncio.Event()
    made.on_lost.append(ended.set)

    async def prepare() -> None:
        store.hangs = True

    running = asyncio.create_task(LeaderLoop(made, prepare, lambda: None).run())
    async with asyncio.timeout(20):
        await ended.wait()
        assert not made.leads
        store.hangs = False
        await until(lambda: made.holds, "the next election")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_standby_runs_for_leadership_as_soon_as_the_key_goes(store, monkeypatch):
    monkeypatch.setattr(leading, "KEEPALIVE_S", 3600.0)
    first, other = await leader(store), Leadership(store, "m2")
    for _ in range(2):  # also of the next leader's key, and after a term of its own
        assert not await other.campaign()
        resting = asyncio.create_task(other.rest())
        await until(lambda: other._vacancy._watch is not None, "a watch")
        await store.txn([], [Put("/other", b"x")])
        assert not (await asyncio.wait((resting,), timeout=0.05))[0], "nothing of that key"
        await first.resign()
        async with asyncio.timeout(10):
            await resting
        assert await other.campaign()
        assert other._vacancy._watch is None, "who leads needs none"
        await other.resign()
        assert await first.campaign()


async def test_a_watch_that_fails_costs_a_standby_nothing(store, monkeypatch):
    monkeypatch.setattr(leading, "KEEPALIVE_S", 0.01)

    async def fails(prefix, from_revision):
        if prefix:
            raise StoreUnavailableError("away")
        yield

    monkeypatch.setattr(store, "watch", fails, raising=False)
    await leader(store)
    other = Leadership(store, "m2")
    for _ in range(5):
        assert not await other.campaign()
        async with asyncio.timeout(10):
            await other.rest()
    let_the_lease_end(store)
    assert await other.campaign()


async def test_a_standby_that_ends_leaves_no_watch(store):
    await leader(store)
    other = Leadership(store, "m2")
    assert not await other.campaign()
    resting = asyncio.create_task(other.rest())
    await until(lambda: other._vacancy._watch is not None, "a watch")
    watch = other._vacancy._watch
    assert watch is not None
    resting.cancel()
    await asyncio.gather(resting, watch, return_exceptions=True)
    assert resting.cancelled()
    assert watch.cancelled()
