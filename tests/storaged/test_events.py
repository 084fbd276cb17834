"""What the managers remember of what happened: coalesced, bounded, in order, cheap."""

from __future__ import annotations

import contextlib
import itertools

import pytest

from drystone_storaged.cluster import events as module
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.events import EventBook, read_events
from drystone_storaged.cluster.store import Put, StoreUnavailableError
from drystone_storaged.cluster.store_sqlite import SqliteStore
from drystone_storaged.manager import chronicle
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import peers, until
from tests.storaged.metadata_conformance import FakeClock


@pytest.fixture
async def store(tmp_path):
    opened = await SqliteStore.open(tmp_path / "m.db")
    yield opened
    await opened.close()


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def book(store, clock):
    return EventBook(store, clock, clock)


async def listed(store, *, since_s=0, level="", limit=1000, cursor=""):
    found, _ = await read_events(store, since_s=since_s, level=level, limit=limit, cursor=cursor)
    return [event for _, event in found]


async def flush_all(book) -> int:
    """How many transactions it took."""
    for count in itertools.count(1):
        if not await book.flush():
            return count
    raise AssertionError


async def test_the_same_thing_within_seconds_is_one_event_with_a_count(store, book, clock):
    for text in ("once", "twice"):
        book.note("suspicion", "node a", text)
    await flush_all(book)
    clock.now += 3
    book.note("suspicion", "node a", "thrice", "Warning")
    await flush_all(book)
    (event,) = await listed(store)
    assert (event.count, event.message, event.level) == (3, "thrice", "Warning")
    assert (event.s, event.last_s) == (1000, 1003)
    clock.now += 3
    book.note("suspicion", "node a", "later")
    await flush_all(book)
    assert [e.count for e in await listed(store)] == [3, 1]


async def test_events_come_in_the_order_of_time_in_pages_and_by_level(store, book, clock):
    for number in range(7):
        book.note("x", f"drive {number}", "text", "Warning" if number % 2 else "Normal")
        await flush_all(book)
        clock.now += 10
    assert [e.object for e in await listed(store)] == [f"drive {n}" for n in range(7)]
    assert len(await listed(store, level="Warning")) == 3
    assert [e.s for e in await listed(store, since_s=1050)] == [1050, 1060]
    first, cursor = await read_events(store, since_s=0, level="", limit=5, cursor="")
    rest, end = await read_events(store, since_s=0, level="", limit=5, cursor=cursor or "")
    assert (len(first), len(rest), end) == (5, 2, None)


async def test_events_of_one_second_stay_in_the_order_in_which_they_came(store, book):
    for number in range(20):
        book.note("x", f"drive {number}", "text")
    await flush_all(book)
    assert [e.object for e in await listed(store)] == [f"drive {n}" for n in range(20)]


async def test_a_storm_is_bounded_in_memory_and_in_the_store_and_told_as_a_number(
    store, book, clock, monkeypatch
):
    monkeypatch.setattr(module, "KEEP", 300)
    seen = 0
    for number in range(3_000):
        book.note("x", f"drive {number}", "text")
        assert book._waiting() <= module.PENDING_MAX
        if number % 50 == 0:
            clock.now += 1
            await book.flush()
            seen = max(seen, len((await store.range(keys.EVENTS)).items))
    clock.now += 10
    await flush_all(book)
    found = await listed(store)
    assert seen <= 300 + module.WRITE
    assert len(found) == 300
    assert any(e.kind == "events_lost" for e in found)


async def test_events_that_nobody_could_write_are_written_when_the_store_is_back(store, clock):
    away = [True]

    class Away:
        def __getattr__(self, name):
            return getattr(store, name)

        async def txn(self, *args):
            if away[0]:
                raise StoreUnavailableError("away")
            return await store.txn(*args)

    book = EventBook(Away(), clock, clock)
    book.note("x", "drive 1", "text")
    with contextlib.suppress(StoreUnavailableError):
        await book.flush()
    clock.now += 100
    away[0] = False
    await flush_all(book)
    assert [e.s for e in await listed(store)] == [1000]


async def test_what_happens_while_it_is_written_is_written_too(store, clock):
    class Slow:
        book: EventBook

        def __getattr__(self, name):
            return getattr(store, name)

        async def txn(self, *args):
            self.book.note("x", "drive 1", "meanwhile")
            return await store.txn(*args)

    slow = Slow()
    book = slow.book = EventBook(slow, clock, clock)
    book.note("x", "drive 1", "text")
    assert await book.flush()
    book._store = store
    await flush_all(book)
    (event,) = await listed(store)
    assert (event.count, event.message) == (2, "meanwhile")


async def test_an_event_that_cannot_be_read_hides_no_other(store, book):
    await store.txn([], [Put(keys.event(1, "x"), b"garbage")])
    book.note("x", "drive 1", "text")
    await flush_all(book)
    assert len(await listed(store)) == 1


async def test_a_manager_remembers_drops_joins_and_who_came_and_went(mgr, monkeypatch):
    monkeypatch.setattr(chronicle, "SETTLE_S", 0.0)
    async with peers(mgr, 3, 1) as made:
        await made[0].die()

        async def told():
            answer = await mgr.http.get("/v1/events", params={"limit": 1000})
            return {(e["kind"], e["object"]): e for e in answer.json()["items"]}

        async def dropped():
            return ("drive_dropped", "drive 1 on node-1") in await told()

        await until(dropped, "the event of the drop")
        found = await told()
        drop = found["drive_dropped", "drive 1 on node-1"]
        assert drop["message"] == "left 64 PGs (connection refused)"
        assert drop["level"] == "Warning"
        assert ("drive_new", "drive 3 on node-3") in found
        assert ("connected", "client block-1") in found
        assert ("disconnected", "server node-1") in found
        await made[0].connect(instance=2)
        await made[0].open_drive(nonce=8, previous=7)

        async def joins():
            return ("drive_joins", "drive 1 on node-1") in await told()

        await until(joins, "the event of the join")
        counted = mgr.services.tally
        assert counted.drops["process_dead"] == 64
        assert sum(counted.joins.values()) == 64


async def test_a_problem_that_comes_and_goes_is_two_events(mgr, monkeypatch):
    monkeypatch.setattr(chronicle, "SETTLE_S", 0.0)
    async with peers(mgr, 3, 0) as made:
        mgr.services.wake_problems.ring()
        report = pb.DriveStatus(drive=2, capacity_bytes=100, used_bytes=90)
        mgr.services.stats.report(report)
        found = await mgr.services.status.problems()
        mgr.services.chronicle.problems(found)
        mgr.services.stats.clear()
        mgr.services.chronicle.problems(await mgr.services.status.problems())

        async def told():
            answer = await mgr.http.get("/v1/events")
            kinds = [e["kind"] for e in answer.json()["items"]]
            return {"problem_drive_full", "problem_drive_full_over"} <= set(kinds)

        await until(told, "both")
        assert made


@pytest.mark.parametrize(
    "query", [{"since_s": -1}, {"level": "Bad"}, {"limit": 0}, {"cursor": "x" * 64}]
)
async def test_a_question_that_makes_no_sense_is_refused(mgr, query):
    answer = await mgr.http.get("/v1/events", params=query)
    assert answer.status_code == 400


async def test_a_reader_may_ask_and_nobody_else(mgr):
    assert (await mgr.http.get("/v1/events", headers=mgr.auth("read"))).status_code == 200
    answer = await mgr.http.get("/v1/events", headers={"Authorization": "Bearer x"})
    assert answer.status_code == 401
    assert mgr.services.tally.refused_calls["rest", "unauthenticated"] == 1
