"""The metadata store of one machine: SQLite, one process, one thread, group commit.

Every call is a job for one thread. The jobs that wait are run together: first the reads, which
see what is durable and are answered at once, then the writes, which are made durable by one flush
and answered after it. So nothing is seen that a power cut could take back, the store is as fast as
many callers at once need, and a call that reads three times before it writes waits for one flush.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from drystone_common.errors import ConflictError, DataError, DrystoneError
from drystone_storaged.cluster.sqlite_engine import DAMAGED, RESTORE, SqliteEngine, is_corrupt
from drystone_storaged.cluster.store import (
    RANGE_LIMIT_MAX,
    Compare,
    KeyValue,
    Op,
    RangeResult,
    StoreUnavailableError,
    TxnResult,
    View,
    WatchBatch,
    check_key,
    check_limits,
    check_view,
)

BATCH_MAX: Final = 256  # jobs that share one flush: bounds how long the first of them waits
QUEUE_MAX: Final = (
    10_000  # waiting jobs; more callers than any cluster has means something is stuck
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[SqliteEngine], Any]
    writes: bool
    answer: Future[Any]


_Answer = tuple[Future[Any], Any, BaseException | None]


class SqliteStore:
    """``MetadataStore`` on a file. Open it with ``SqliteStore.open``."""

    shared: Final = False  # the lock file sees to it

    def __init__(self, path: Path, lock: int, clock: Callable[[], float]) -> None:
        self._lock = lock
        self._engine = SqliteEngine(path, clock)
        self._jobs: queue.Queue[_Job | None] = queue.Queue(QUEUE_MAX)
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._advanced = asyncio.Condition()
        self._seen = self._engine.revision
        self._thread = threading.Thread(target=self._run, name="metadata-store", daemon=True)

    @classmethod
    async def open(cls, path: Path, *, clock: Callable[[], float] = time.monotonic) -> SqliteStore:
        """Lock and open the store, making it if there is none."""
        lock = _take_lock(path)
        try:
            store = cls(path, lock, clock)
        except BaseException:
            os.close(lock)
            raise
        store._thread.start()
        try:
            await store._do(lambda engine: engine.forget_leases(), writes=True)
        except StoreUnavailableError as error:
            await store.close()
            if error.code != DAMAGED:
                raise
            raise DataError(
                f"{path} is not a usable metadata store: {error}", code=DAMAGED, hint=RESTORE
            ) from error
        return store

    async def get(self, key: str) -> KeyValue | None:
        """Read one key."""
        check_key(key)
        return await self._do(lambda engine: engine.get(key))

    async def range(
        self,
        prefix: str,
        *,
        after: str = "",
        limit: int = RANGE_LIMIT_MAX,
        min_mod_revision: int = 0,
    ) -> RangeResult:
        """Read keys of a prefix."""
        check_key(prefix)
        return await self._do(lambda engine: engine.range(prefix, after, limit, min_mod_revision))

    async def view(self, keys: Sequence[str], prefixes: Sequence[str]) -> View:
        """Read several keys and prefixes as of one moment."""
        check_view(keys, prefixes)
        return await self._do(lambda engine: engine.view(keys, prefixes))

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()
    ) -> TxnResult:
        """Run a transaction, durably."""
        check_limits(compares, then, otherwise)
        return await self._do(lambda engine: engine.txn(compares, then, otherwise), writes=True)

    async def revision(self) -> int:
        """Give the current revision."""
        return await self._do(lambda engine: engine.revision)

    async def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[WatchBatch]:
        """Follow a prefix; reads the log, so a slow follower costs no memory."""
        check_key(prefix)
        start = from_revision
        while True:
            batch = await self._do(lambda engine, at=start: engine.events(prefix, at))  # type: ignore[misc]
            if batch.events:
                yield batch
            if batch.revision >= start:
                start = batch.revision + 1
            async with self._advanced:
                # A batch that was cut ends below what was seen: go on at once.
                while not self._closed and self._seen < start:
                    await self._advanced.wait()
            if self._closed:
                raise StoreUnavailableError("the metadata store is closed")

    async def lease_grant(self, ttl_s: float) -> int:
        """Make a lease."""
        return await self._do(lambda engine: engine.lease_grant(ttl_s))

    async def lease_keepalive(self, lease: int) -> None:
        """Start its time anew."""
        await self._do(lambda engine: engine.lease_keepalive(lease))

    async def lease_revoke(self, lease: int) -> None:
        """End it."""
        await self._do(lambda engine: engine.lease_revoke(lease), writes=True)

    async def compact(self, revision: int) -> None:
        """Forget history."""
        await self._do(lambda engine: engine.compact(revision), writes=True)

    async def close(self) -> None:
        """Finish what was begun, close the file, give up the lock."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put_nowait(None)
        await asyncio.to_thread(self._thread.join)
        os.close(self._lock)
        async with self._advanced:
            self._advanced.notify_all()

    async def _do(self, work: Callable[[SqliteEngine], T], *, writes: bool = False) -> T:
        if self._closed:
            raise StoreUnavailableError("the metadata store is closed")
        job = _Job(work, writes, Future())
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise StoreUnavailableError("the metadata store is overloaded", code="busy") from None
        result: T = await asyncio.wrap_future(job.answer)
        return result

    def _run(self) -> None:
        running = True
        while running:
            batch, running = self._collect()
            self._run_batch(batch)
        while not self._jobs.empty():
            left = self._jobs.get_nowait()
            if left is not None:
                left.answer.set_exception(StoreUnavailableError("the metadata store is closed"))
        self._engine.close()

    def _collect(self) -> tuple[list[_Job], bool]:
        batch: list[_Job] = []
        due = self._engine.lease_due_s()
        try:
            # Every call is a job and wakes us; without one there is only the next lease's end.
            job = self._jobs.get(timeout=None if due is None else max(due, 0.001))
            while job is not None:
                batch.append(job)
                if len(batch) >= BATCH_MAX:
                    return batch, True
                job = self._jobs.get_nowait()
        except queue.Empty:
            return batch, True
        return batch, False

    def _run_batch(self, batch: list[_Job]) -> None:
        engine = self._engine
        live = [job for job in batch if job.answer.set_running_or_notify_cancel()]
        # A lease whose time is over ends before anything else is seen or done.
        ends = engine.lease_due_s() == 0.0
        # None of these was answered, so any order of them is one that callers may see.
        reads = [] if ends else [job for job in live if not job.writes]
        writes = live if ends else [job for job in live if job.writes]
        if reads:
            _answer(self._attempt(reads))
        if writes or ends:
            _answer(self._attempt(writes, durably=True))
        if engine.revision != self._seen and not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(self._announce(engine.revision), self._loop)

    def _attempt(self, jobs: list[_Job], *, durably: bool = False) -> list[_Answer]:
        engine = self._engine
        try:
            if not durably:
                return [_run_job(engine, job) for job in jobs]
            engine.begin()
            engine.expire()
            answers = [_run_job(engine, job) for job in jobs]
            engine.commit()
        except (sqlite3.Error, OverflowError) as error:
            with contextlib.suppress(sqlite3.Error):
                engine.rollback()
            reason = _reason(error, "write" if durably else "read")
            return [(job.answer, None, reason) for job in jobs]
        return answers

    async def _announce(self, revision: int) -> None:
        async with self._advanced:
            self._seen = max(self._seen, revision)
            self._advanced.notify_all()


def _reason(error: Exception, what: str) -> StoreUnavailableError:
    if is_corrupt(error):
        # Callers wait and repeat: their data is well, and a repaired store answers them.
        return StoreUnavailableError(
            f"the metadata store is damaged: {error}", code=DAMAGED, hint=RESTORE
        )
    return StoreUnavailableError(
        f"the metadata store cannot {what}: {error}", hint="check space and health of its disk"
    )


def _answer(answers: list[_Answer]) -> None:
    for future, value, problem in answers:
        if problem is None:
            future.set_result(value)
        else:
            future.set_exception(problem)


def _run_job(engine: SqliteEngine, job: _Job) -> _Answer:
    try:
        return job.answer, job.work(engine), None
    except DrystoneError as error:
        # Raised before the job wrote anything: the batch goes on.
        return job.answer, None, error


def _take_lock(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(
        path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise ConflictError(
            f"the metadata store {path} is open in another process",
            code="store_locked",
            hint="only one manager can use a SQLite store: stop the other one",
        ) from error
    return lock
