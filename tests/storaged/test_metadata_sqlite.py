from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading

import pytest

from drystone_common.errors import ConflictError, DataError
from drystone_storaged.cluster.sqlite_engine import SqliteEngine
from drystone_storaged.cluster.store import Compare, Put, StoreUnavailableError
from drystone_storaged.cluster.store_sqlite import SqliteStore
from tests.storaged.metadata_conformance import FakeClock, MetadataConformance


class TestSqlite(MetadataConformance):
    @pytest.fixture
    def factory(self, tmp_path):
        @contextlib.asynccontextmanager
        async def make():
            clock = FakeClock()
            store = await SqliteStore.open(tmp_path / "m.db", clock=clock)
            try:
                yield store, clock
            finally:
                await store.close()

        return make


async def test_everything_is_there_after_a_reopen_except_leases(tmp_path):
    store = await SqliteStore.open(tmp_path / "m.db")
    lease = await store.lease_grant(60.0)
    done = await store.txn([], [Put("/a", b"1"), Put("/leader", b"x", lease)])
    await store.close()
    again = await SqliteStore.open(tmp_path / "m.db")
    found = await again.get("/a")
    assert found is not None
    assert found.mod_revision == done.revision
    assert await again.get("/leader") is None
    assert await again.revision() > done.revision
    await again.close()


async def test_a_second_process_is_refused(tmp_path):
    store = await SqliteStore.open(tmp_path / "m.db")
    with pytest.raises(ConflictError) as caught:
        await SqliteStore.open(tmp_path / "m.db")
    assert caught.value.code == "store_locked"
    await store.close()


async def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "m.db"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(DataError):
        await SqliteStore.open(path)
    assert path.read_bytes().startswith(b"not a database")


async def test_a_store_of_a_later_format_is_refused(tmp_path):
    store = await SqliteStore.open(tmp_path / "m.db")
    await store.close()
    db = sqlite3.connect(tmp_path / "m.db")
    db.execute("UPDATE meta SET value = '9' WHERE name = 'format'")
    db.commit()
    db.close()
    with pytest.raises(DataError) as caught:
        await SqliteStore.open(tmp_path / "m.db")
    assert caught.value.code == "store_format"


async def test_history_is_compacted_by_itself_and_keys_stay(tmp_path, monkeypatch):
    from drystone_storaged.cluster import sqlite_engine

    monkeypatch.setattr(sqlite_engine, "HISTORY_REVISIONS", 10)
    monkeypatch.setattr(sqlite_engine, "COMPACT_EVERY", 50)
    store = await SqliteStore.open(tmp_path / "m.db")
    await store.txn([], [Put("/old", b"1")])
    await asyncio.gather(*(store.txn([], [Put("/n", b"%d" % i)]) for i in range(200)))
    db = sqlite3.connect(tmp_path / "m.db")
    (rows,) = db.execute("SELECT count(*) FROM log").fetchone()
    db.close()
    assert rows < 100
    assert await store.get("/old") is not None
    assert (await store.txn([Compare.absent("/old")], [])).succeeded is False
    await store.close()


async def test_reads_that_wait_with_a_write_do_not_wait_for_its_flush(tmp_path, monkeypatch):
    store = await SqliteStore.open(tmp_path / "m.db")
    await store.txn([], [Put("/k", b"old")])
    together, flushed = threading.Event(), threading.Event()
    commit = store._engine.commit

    def slow_commit() -> None:
        assert flushed.wait(20)
        commit()

    monkeypatch.setattr(store._engine, "commit", slow_commit)
    try:
        gate = asyncio.create_task(store._do(lambda _: together.wait(20)))
        await asyncio.sleep(0)
        write = asyncio.create_task(store.txn([], [Put("/k", b"new")]))
        await asyncio.sleep(0)
        read = asyncio.create_task(store.get("/k"))
        await asyncio.sleep(0)
        together.set()
        async with asyncio.timeout(20):
            found = await read
        assert found is not None
        assert found.value == b"old", "what a power cut could take back is not seen"
        assert not write.done()
    finally:
        together.set()
        flushed.set()
        await asyncio.gather(gate, write)
        after = await store.get("/k")
        await store.close()
    assert after is not None
    assert after.value == b"new"


async def damaged(path, from_page: int) -> None:
    """A store whose pages from this one on hold junk."""
    store = await SqliteStore.open(path)
    for number in range(200):
        await store.txn([], [Put(f"/k/{number}", bytes(500))])
    await store.close()
    page = 4096
    with path.open("r+b") as file:
        file.seek(page * from_page)
        file.write(b"junk" * ((path.stat().st_size - page * from_page) // 4))


async def test_a_store_that_is_damaged_says_so_at_the_start_and_how_to_go_on(tmp_path):
    path = tmp_path / "m.db"
    await damaged(path, 1)
    with pytest.raises(DataError, match="is not a usable metadata store") as caught:
        await SqliteStore.open(path)
    assert caught.value.code == "store_damaged"
    assert "Backup and loss of the manager" in (caught.value.hint or "")


async def test_damage_that_is_met_later_is_told_as_damage_and_the_store_still_answers(
    tmp_path, monkeypatch
):
    store = await SqliteStore.open(tmp_path / "m.db")
    txn = SqliteEngine.txn

    def corrupt(*_args):
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    try:
        before = await store.revision()
        monkeypatch.setattr(SqliteEngine, "txn", corrupt)
        with pytest.raises(StoreUnavailableError, match="is damaged") as caught:
            await store.txn([], [Put("/k", b"v")])
        assert caught.value.code == "store_damaged"
        monkeypatch.setattr(SqliteEngine, "txn", txn)
        assert (await store.txn([], [Put("/k", b"v")])).revision == before + 1
    finally:
        await store.close()
