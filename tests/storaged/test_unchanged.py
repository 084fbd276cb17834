"""What is read once for each change of the store, and never after one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from drystone_storaged.cluster.maprecords import MapRecords
from drystone_storaged.cluster.store import Delete, Op, Put
from drystone_storaged.cluster.store_sqlite import SqliteStore
from drystone_storaged.cluster.txn import Unchanged
from drystone_storaged.manager import mapfeed


@pytest.fixture
async def store(tmp_path):
    made = await SqliteStore.open(tmp_path / "db")
    yield made
    await made.close()


class Reader:
    """Counts how often it had to read."""

    def __init__(self, store) -> None:
        self.store, self.times = store, 0
        self.meanwhile: list[Op] = []
        self.kept = Unchanged(store, self.read)

    async def read(self) -> dict[str, bytes]:
        self.times += 1
        found = {kv.key: kv.value for kv in (await self.store.range("/a/")).items}
        if self.meanwhile:
            await self.store.txn([], self.meanwhile)
            self.meanwhile = []
        return found


async def test_what_did_not_change_is_read_once(store):
    await store.txn([], [Put("/a/1", b"x")])
    reader = Reader(store)
    for _ in range(3):
        assert await reader.kept.get() == {"/a/1": b"x"}
    assert reader.times == 1


async def test_every_change_is_seen_a_deletion_too(store):
    await store.txn([], [Put("/a/1", b"x")])
    reader = Reader(store)
    assert await reader.kept.get() == {"/a/1": b"x"}
    await store.txn([], [Put("/a/1", b"y"), Put("/a/2", b"z")])
    assert await reader.kept.get() == {"/a/1": b"y", "/a/2": b"z"}
    await store.txn([], [Delete("/a/1")])
    assert await reader.kept.get() == {"/a/2": b"z"}


async def test_what_is_written_while_it_reads_is_read_at_the_next_time(store):
    await store.txn([], [Put("/a/1", b"x")])
    reader = Reader(store)
    reader.meanwhile = [Put("/a/1", b"y")]
    assert await reader.kept.get() == {"/a/1": b"x"}
    assert await reader.kept.get() == {"/a/1": b"y"}
    assert await reader.kept.get() == {"/a/1": b"y"}
    assert reader.times == 2


async def test_what_is_forgotten_is_read_anew_though_the_revision_is_the_same(store):
    """A store that was put back counts up to the same numbers, with other things under them."""
    await store.txn([], [Put("/a/1", b"x")])
    reader = Reader(store)
    await reader.kept.get()
    reader.kept.forget()
    assert await reader.kept.get() == {"/a/1": b"x"}
    assert reader.times == 2


async def test_a_new_leader_follows_the_map_of_a_store_that_was_put_back(store, monkeypatch):
    """It counts from less: what was read of the former one must not count as the newer map."""
    numbers = iter((900, 400))

    async def read(_):
        records = MapRecords({}, {}, {}, (), (), {})
        state = SimpleNamespace(revision=next(numbers), refused=(), records=lambda: records)
        state.telling = lambda _: state
        return state

    monkeypatch.setattr(mapfeed, "read_state", read)
    feed = mapfeed.MapFeed(store)
    assert (await feed.read()).revision == 900
    feed.forget()
    assert feed.latest() is None
    assert (await anext(feed.follow(0))).revision == 400
