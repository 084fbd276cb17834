"""What is read once for each change of the store, and never after one."""

from __future__ import annotations

import pytest

from drystone_storaged.cluster.store import Delete, Op, Put
from drystone_storaged.cluster.store_sqlite import SqliteStore
from drystone_storaged.cluster.txn import Unchanged


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
