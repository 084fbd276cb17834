"""What every metadata store must do. A module of an implementation makes a factory and subclasses.

The factory is an async context manager that gives ``(store, clock)``; ``clock.advance(seconds)``
moves the time by which leases expire.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import pytest

from drystone_storaged.cluster import etcd_codec, sqlite_engine, store_etcd
from drystone_storaged.cluster.store import (
    KEY_BYTES_MAX,
    OPS_MAX,
    REQUEST_BYTES_MAX,
    CompactedError,
    Compare,
    Delete,
    Get,
    LeaseNotFoundError,
    MetadataStore,
    Put,
    Relation,
    StoreLimitError,
    StoreUnavailableError,
    Target,
    WatchBatch,
)
from drystone_storaged.cluster.suspicions import standing, stands, suspect

DEADLINE_S = 10.0


class Clock(Protocol):
    def advance(self, seconds: float) -> None: ...


Factory = Callable[[], contextlib.AbstractAsyncContextManager[tuple[MetadataStore, Clock]]]


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


async def take(stream: AsyncIterator[WatchBatch], count: int) -> list[tuple[str, bytes | None]]:
    events: list[tuple[str, bytes | None]] = []
    async with asyncio.timeout(DEADLINE_S):
        while len(events) < count:
            events += [(e.key, e.value) for e in (await anext(stream)).events]
    return events


class MetadataConformance:
    @pytest.fixture
    async def opened(self, factory: Factory):
        async with factory() as opened:
            yield opened

    @pytest.fixture
    def store(self, opened) -> MetadataStore:
        return opened[0]

    @pytest.fixture
    def clock(self, opened) -> Clock:
        return opened[1]

    async def test_a_missing_key_reads_as_none(self, store):
        assert await store.get("/a") is None

    async def test_a_put_is_read_back_with_its_revisions(self, store):
        first = await store.txn([], [Put("/a", b"1")])
        second = await store.txn([], [Put("/a", b"2")])
        found = await store.get("/a")
        assert found is not None
        assert (found.value, found.version) == (b"2", 2)
        assert (found.create_revision, found.mod_revision) == (first.revision, second.revision)
        assert second.revision > first.revision

    async def test_all_keys_of_a_transaction_share_its_revision(self, store):
        done = await store.txn([], [Put("/a", b"1"), Put("/b", b"2")])
        items = (await store.range("/")).items
        assert [kv.mod_revision for kv in items] == [done.revision] * 2

    async def test_a_transaction_that_writes_nothing_takes_no_revision(self, store):
        await store.txn([], [Put("/a", b"1")])
        before = await store.revision()
        await store.txn([Compare.absent("/a")], [Put("/a", b"2")], [Get("/a")])
        await store.txn([], [Delete("/missing")])
        assert await store.revision() == before

    async def test_a_deleted_key_begins_anew(self, store):
        await store.txn([], [Put("/a", b"1")])
        await store.txn([], [Delete("/a")])
        assert await store.get("/a") is None
        again = await store.txn([Compare.absent("/a")], [Put("/a", b"3")])
        found = await store.get("/a")
        assert again.succeeded
        assert found is not None
        assert (found.version, found.create_revision) == (1, again.revision)

    async def test_the_other_branch_runs_when_one_compare_fails(self, store):
        await store.txn([], [Put("/a", b"1")])
        done = await store.txn(
            [Compare.absent("/b"), Compare.absent("/a")], [Put("/c", b"")], [Get("/a"), Get("/b")]
        )
        assert not done.succeeded
        assert [kv.value if kv else None for kv in done.reads] == [b"1", None]
        assert await store.get("/c") is None

    @pytest.mark.parametrize(
        ("target", "relation", "operand", "holds"),
        [
            (Target.VALUE, Relation.EQUAL, b"m", True),
            (Target.VALUE, Relation.NOT_EQUAL, b"m", False),
            (Target.VALUE, Relation.GREATER, b"a", True),
            (Target.VALUE, Relation.LESS, b"a", False),
            (Target.VERSION, Relation.EQUAL, 2, True),
            (Target.VERSION, Relation.GREATER, 2, False),
            (Target.VERSION, Relation.LESS, 3, True),
            (Target.CREATE, Relation.GREATER, 0, True),
            (Target.MOD, Relation.NOT_EQUAL, 0, True),
            (Target.MOD, Relation.EQUAL, 0, False),
        ],
    )
    async def test_compares_follow_etcd(self, store, target, relation, operand, holds):
        await store.txn([], [Put("/a", b"x")])
        await store.txn([], [Put("/a", b"m")])
        done = await store.txn([Compare("/a", target, relation, operand)], [])
        assert done.succeeded is holds

    async def test_a_missing_key_compares_as_zero(self, store):
        for target in (Target.CREATE, Target.MOD, Target.VERSION):
            compare = Compare("/none", target, Relation.EQUAL, 0)
            assert (await store.txn([compare], [])).succeeded

    @pytest.mark.parametrize("relation", list(Relation))
    async def test_no_comparison_with_the_value_of_a_missing_key_holds(self, store, relation):
        compare = Compare("/none", Target.VALUE, relation, b"")
        assert not (await store.txn([compare], [])).succeeded

    async def test_a_get_in_a_transaction_sees_what_it_wrote(self, store):
        done = await store.txn([], [Put("/a", b"1"), Get("/a")])
        assert done.reads[0] is not None
        assert done.reads[0].value == b"1"

    async def test_a_range_is_sorted_bounded_and_goes_on_after_a_key(self, store):
        await store.txn([], [Put(f"/r/{i:02}", b"") for i in range(10)] + [Put("/s", b"")])
        page = await store.range("/r/", limit=4)
        assert [kv.key for kv in page.items] == [f"/r/0{i}" for i in range(4)]
        assert page.more
        rest = await store.range("/r/", after="/r/03", limit=100)
        assert [kv.key for kv in rest.items] == [f"/r/0{i}" for i in range(4, 10)]
        assert not rest.more

    async def test_a_range_filters_by_modification(self, store):
        await store.txn([], [Put("/r/a", b""), Put("/r/b", b"")])
        done = await store.txn([], [Put("/r/b", b"2")])
        page = await store.range("/r/", min_mod_revision=done.revision)
        assert [kv.key for kv in page.items] == ["/r/b"]

    async def test_a_view_is_of_one_moment(self, store):
        done = await store.txn([], [Put("/v/a", b"1"), Put("/v/b", b"2"), Put("/w/c", b"3")])
        seen = await store.view(["/v/b", "/none"], ["/v/", "/w/", "/x/"])
        assert [kv and kv.value for kv in seen.keys] == [b"2", None]
        assert [[kv.key for kv in part] for part in seen.prefixes] == [
            ["/v/a", "/v/b"], ["/w/c"], [],
        ]  # fmt: skip
        assert seen.revision == done.revision

    async def test_a_view_is_whole_while_others_write(self, store):
        await store.txn([], [Put("/v/a", b"0"), Put("/w/a", b"0")])

        async def write() -> None:
            for step in range(1, 50):
                await store.txn([], [Put("/v/a", b"%d" % step), Put("/w/a", b"%d" % step)])

        writer = asyncio.create_task(write())
        while not writer.done():
            seen = await store.view(["/v/a"], ["/w/"])
            assert seen.keys[0].value == seen.prefixes[0][0].value
        await writer

    async def test_a_view_has_more_keys_than_an_answer(self, store, monkeypatch):
        for module in (etcd_codec, sqlite_engine, store_etcd):
            monkeypatch.setattr(module, "RANGE_LIMIT_MAX", 3)
        names = [f"/v/{number}" for number in range(8)]
        await store.txn([], [Put(name, b"") for name in names])
        seen = await store.view([], ["/v/", "/w/"])
        assert [kv.key for kv in seen.prefixes[0]] == names
        assert seen.prefixes[1] == ()

    async def test_a_view_of_too_much_is_refused(self, store):
        with pytest.raises(StoreLimitError):
            await store.view(["/a"] * OPS_MAX, ["/b/"])

    async def test_of_concurrent_creators_exactly_one_succeeds(self, store):
        tries = [store.txn([Compare.absent("/one")], [Put("/one", b"%d" % i)]) for i in range(50)]
        results = await asyncio.gather(*tries)
        assert sum(r.succeeded for r in results) == 1

    async def test_concurrent_counters_lose_no_step(self, store):
        async def add() -> None:
            while True:
                found = await store.get("/n")
                value, mod = (int(found.value), found.mod_revision) if found else (0, 0)
                new = Put("/n", str(value + 1).encode())
                if (await store.txn([Compare.mod("/n", mod)], [new])).succeeded:
                    return

        await asyncio.gather(*(add() for _ in range(20)))
        found = await store.get("/n")
        assert found is not None
        assert (found.value, found.version) == (b"20", 20)

    async def test_a_lost_answer_is_found_by_reading_again(self, store):
        # The service's pattern: the outcome is unknown, so it compares what it wanted to write.
        lost = LossyStore(store)
        lost.lose_next = True
        with pytest.raises(StoreUnavailableError):
            await lost.txn([Compare.absent("/a")], [Put("/a", b"mine")])
        again = await lost.txn([Compare.absent("/a")], [Put("/a", b"mine")], [Get("/a")])
        assert not again.succeeded
        assert again.reads[0] is not None
        assert again.reads[0].value == b"mine"

    async def test_a_cancelled_call_leaves_the_store_usable(self, store):
        task = asyncio.create_task(store.txn([], [Put("/a", b"1")]))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert (await store.txn([], [Put("/b", b"1")])).succeeded

    async def test_a_watch_gives_history_then_what_follows_in_order(self, store):
        first = await store.txn([], [Put("/w/a", b"1")])
        await store.txn([], [Put("/x", b"no")])
        await store.txn([], [Delete("/w/a")])
        stream = store.watch("/w/", first.revision)
        assert await take(stream, 2) == [("/w/a", b"1"), ("/w/a", None)]
        await store.txn([], [Put("/w/b", b"2"), Put("/w/c", b"3")])
        assert await take(stream, 2) == [("/w/b", b"2"), ("/w/c", b"3")]
        await stream.aclose()

    async def test_a_watch_misses_and_repeats_nothing_under_load(self, store):
        start = await store.revision() + 1
        stream = store.watch("/w/", start)

        async def write() -> None:
            for i in range(300):
                await store.txn([], [Put("/w/n", b"%d" % i)])

        writer = asyncio.create_task(write())
        events = await take(stream, 300)
        await writer
        assert [value for _, value in events] == [b"%d" % i for i in range(300)]
        await stream.aclose()

    async def test_a_watch_from_compacted_history_says_so(self, store):
        first = await store.txn([], [Put("/w/a", b"1")])
        for _ in range(5):
            await store.txn([], [Put("/w/a", b"2")])
        await store.compact(await store.revision())
        stream = store.watch("/w/", first.revision)
        with pytest.raises(CompactedError):
            await take(stream, 1)
        found = await store.get("/w/a")
        assert found is not None

    async def test_a_watch_from_the_newest_revision_survives_compaction(self, store):
        done = await store.txn([], [Put("/w/a", b"1")])
        await store.compact(done.revision)
        stream = store.watch("/w/", done.revision)
        assert await take(stream, 1) == [("/w/a", b"1")]
        await stream.aclose()

    async def test_keys_of_an_expired_lease_vanish_and_watchers_see_it(self, store, clock):
        lease = await store.lease_grant(2.0)
        done = await store.txn([], [Put("/l", b"1", lease)])
        stream = store.watch("/l", done.revision + 1)
        clock.advance(3.0)
        assert await take(stream, 1) == [("/l", None)]
        assert await store.get("/l") is None
        await stream.aclose()

    async def test_a_kept_lease_keeps_its_keys(self, store, clock):
        lease = await store.lease_grant(2.0)
        await store.txn([], [Put("/l", b"1", lease)])
        for _ in range(5):
            clock.advance(1.0)
            await store.lease_keepalive(lease)
        assert await store.get("/l") is not None

    async def test_a_lease_that_ended_cannot_be_kept_or_used(self, store, clock):
        lease = await store.lease_grant(2.0)
        clock.advance(3.0)
        await store.revision()
        await store.txn([], [Put("/tick", b"")])
        with pytest.raises(LeaseNotFoundError):
            await store.lease_keepalive(lease)
        with pytest.raises(LeaseNotFoundError):
            await store.txn([], [Put("/l", b"1", lease)])
        assert await store.get("/l") is None

    async def test_a_revoked_lease_takes_its_keys_at_once(self, store):
        lease = await store.lease_grant(60.0)
        await store.txn([], [Put("/l", b"1", lease), Put("/m", b"1", lease), Put("/k", b"1")])
        await store.lease_revoke(lease)
        await store.lease_revoke(lease)
        assert [kv.key for kv in (await store.range("/")).items] == ["/k"]

    async def test_too_many_operations_are_refused(self, store):
        with pytest.raises(StoreLimitError):
            await store.txn([], [Put(f"/{i}", b"") for i in range(OPS_MAX + 1)])

    async def test_a_key_written_twice_is_refused(self, store):
        with pytest.raises(StoreLimitError):
            await store.txn([], [Put("/a", b"1"), Delete("/a")])

    async def test_a_request_that_is_too_large_is_refused(self, store):
        with pytest.raises(StoreLimitError):
            await store.txn([], [Put("/a", bytes(REQUEST_BYTES_MAX))])

    @pytest.mark.parametrize("key", ["", "ä", "/a\n", "/" + "x" * KEY_BYTES_MAX])
    async def test_a_bad_key_is_refused(self, store, key):
        with pytest.raises(StoreLimitError):
            await store.get(key)

    async def test_a_closed_store_says_so(self, store):
        await store.close()
        with pytest.raises(StoreUnavailableError):
            await store.get("/a")

    async def test_a_suspicions_round_is_the_revision_that_wrote_it_and_never_used_twice(
        self, store
    ):
        # A second manager that decides at the same revision as the first one.
        first, late = await asyncio.gather(suspect(store, "aa"), suspect(store, "bb"))
        assert first is not None
        assert late is not None
        assert first.round != late.round
        assert await suspect(store, "aa") is None, "it stands"
        await store.txn([], [Delete("/suspect/aa")])
        again = await suspect(store, "aa")
        assert again is not None
        assert again.round > max(first.round, late.round)
        assert not (await store.txn([stands(first)], [Put("/k", b"")])).succeeded
        assert (await store.txn([stands(again)], [Put("/k", b"")])).succeeded
        for each in (late, again):
            found = await store.get(f"/suspect/{each.node}")
            assert found is not None
            assert found.mod_revision == each.round

    async def test_a_list_of_suspicions_names_their_rounds_and_those_that_it_cannot_know(
        self, store
    ):
        await store.txn([], [Put("/k", b"")])
        before, nothing = await standing(store)
        suspicion = await suspect(store, "aa")
        assert suspicion is not None
        assert nothing == []
        assert suspicion.round > before, "the list from before does not end it"
        revision, listed = await standing(store)
        assert listed == [suspicion]
        assert revision >= suspicion.round


class LossyStore:
    """Passes everything on; loses the answer of the next transaction when told to."""

    def __init__(self, inner: MetadataStore) -> None:
        self._inner = inner
        self.lose_next = False

    def __getattr__(self, name: str):
        return getattr(self._inner, name)

    async def txn(self, compares, then, otherwise=()):
        done = await self._inner.txn(compares, then, otherwise)
        if self.lose_next:
            self.lose_next = False
            raise StoreUnavailableError("the answer was lost")
        return done
