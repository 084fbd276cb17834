"""Long work: recorded in the store, resumed by whoever leads, shown with its progress."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from drystone_common.errors import DrystoneError, InvalidArgumentError, NotFoundError
from drystone_common.logs import get_logger
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.ids import IdAllocator
from drystone_storaged.cluster.leadership import NotLeaderError
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.membership_service import MembershipService
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.records import Drive, LostPg, Pool, Scrubbed, Task, Volume
from drystone_storaged.cluster.store import Delete, MetadataStore, Put, StoreUnavailableError
from drystone_storaged.cluster.txn import read_all, read_record
from drystone_storaged.cluster.volumes import VolumeService
from drystone_storaged.manager.commander import Commander
from drystone_storaged.manager.compares import PoolCompare
from drystone_storaged.manager.retest import Outcome
from drystone_storaged.proto import control_pb2 as pb

log = get_logger(__name__)

STORE_AWAY_S: Final = 1.0  # between two looks whether the store is back
PAGE: Final = 500  # volumes between two records of progress
LOST_MAX: Final = 1024  # lost PGs that a record lists; more is said by the latest ones just as well
KEEP: Final = 200  # finished tasks that stay to be looked at; older ones go when a new one starts


@dataclass(frozen=True, slots=True)
class TaskParts:
    """What tasks work with."""

    store: MetadataStore
    ids: IdAllocator
    commander: Commander
    membership: MembershipService
    volumes: VolumeService
    wall: Callable[[], float]
    monotonic: Callable[[], float]
    balance: Callable[[int], AsyncGenerator[int, None]]
    """Balance a pool while it is read: PGs left, down to 0."""
    test: Callable[[int], Awaitable[Outcome]]
    """Test a drive; one that was slow comes back if it passes."""


class TaskService:
    """Starts, runs and lists tasks."""

    def __init__(self, parts: TaskParts) -> None:
        self._parts = parts
        self._running: dict[int, asyncio.Task[None]] = {}
        self.on_scrubbed: list[Callable[[str, Scrubbed], None]] = []
        """Told the kind of a task, and what it found."""
        self.counts: Counter[tuple[str, str]] = Counter()
        """By kind and state, as of the newest list."""

    async def scrub(self, drive: Drive) -> Task:
        """Read a drive back against its checksums."""
        return await self._start("scrub", str(drive.id))

    async def retest(self, drive: Drive) -> Task:
        """Test a drive by real operations."""
        return await self._start("retest", str(drive.id))

    async def compare(self, pool: Pool) -> Task:
        """Compare what all copies of a pool hold."""
        return await self._start("compare", str(pool.id))

    async def rebalance(self, pool: Pool) -> Task:
        """Move a pool's PGs until every drive has its share."""
        return await self._start("rebalance", str(pool.id))

    async def mark_lost(self, ref: PgRef, drive: int | None = None) -> Task:
        """Give a PG's data up. The PG itself changes before this returns.

        ``drive`` takes over with what it has; else the one that holds most does.

        The task that records the loss in the volumes is written with the change: whatever ends
        this call or this manager, one is never there without the other.
        """
        number = await self._new_number(await self.list())

        def task(record: PgRecord) -> Task:
            made = self._made(number, "mark-lost", f"{ref.pool}.{ref.pg}.{record.epoch}")
            return replace(made, detail=f"drive {record.insync[0]} took over with what it had")

        try:
            changed, record, heir = await self._parts.membership.mark_lost(
                ref, lambda record: [Put(keys.task(number), encode(task(record)))], drive
            )
        except StoreUnavailableError:
            self._spawn(number, "mark-lost")  # it may be there: then it runs
            raise
        log.warning(
            "PG marked lost", pool=ref.pool, pg=ref.pg, revision=changed.revision, heir=str(heir)
        )
        self._spawn(number, "mark-lost")
        return task(record)

    async def get(self, number: int) -> Task:
        """One task."""
        found = await read_record(self._parts.store, keys.task(number), Task)
        if found is None:
            raise NotFoundError(f"there is no task {number}", code="task_not_found")
        return found[0]

    async def list(self) -> list[Task]:
        """Every task that is still recorded."""
        found = await read_all(self._parts.store, keys.TASKS, Task)
        self.counts = Counter((task.kind, task.state) for task in found)
        return found

    async def resume(self) -> None:
        """At election: go on with what was running."""
        for task in await self.list():
            if task.state == "running" and task.id not in self._running:
                self._spawn(task.id, task.kind)

    def reset(self) -> None:
        """Stop, without waiting: whoever leads next goes on."""
        for task in self._running.values():
            task.cancel()
        self._running = {}

    async def close(self) -> None:
        """Stop; tasks stay recorded as running and are resumed."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _start(self, kind: str, subject: str) -> Task:
        known = await self.list()
        for task in known:
            if (task.kind, task.subject, task.state) == (kind, subject, "running"):
                return task
        task = self._made(await self._new_number(known), kind, subject)
        await self._save(task)
        self._spawn(task.id, kind)
        return task

    async def _new_number(self, known: Sequence[Task]) -> int:
        finished = [task for task in known if task.state != "running"]
        for old in finished[: max(0, len(finished) - KEEP)]:
            await self._parts.store.txn([], [Delete(keys.task(old.id))])
        return await self._parts.ids.take("task")

    def _made(self, number: int, kind: str, subject: str) -> Task:
        return Task(number, kind, subject, "running", created_s=int(self._parts.wall()))

    def _spawn(self, number: int, kind: str) -> None:
        running = self._running
        running[number] = asyncio.create_task(self._run(number, kind))
        running[number].add_done_callback(lambda _: running.pop(number, None))

    async def _run(self, number: int, kind: str) -> None:
        while True:
            try:
                await self._work(number)
            except NotLeaderError:
                log.info("a task goes to the next leader", task=number, kind=kind)
            except StoreUnavailableError:
                # What was done is recorded: it goes on there, and nothing of it is lost.
                await asyncio.sleep(STORE_AWAY_S)
                continue
            except NotFoundError:
                log.info("a task was never begun", task=number, kind=kind)
            return

    async def _work(self, number: int) -> None:
        task = await self.get(number)
        if task.state != "running":
            return  # the answer to its last record was lost
        kinds = {
            "scrub": self._scrub, "compare": self._compare, "mark-lost": self._record_loss,
            "rebalance": self._balance, "retest": self._retest,
        }  # fmt: skip
        work = kinds.get(task.kind)
        try:
            if work is None:
                raise InvalidArgumentError(f"unknown kind of task: {task.kind}")
            await work(task)
        except (NotLeaderError, StoreUnavailableError):
            raise
        except DrystoneError as error:
            log.warning("a task failed", task=task.id, kind=task.kind, reason=str(error))
            await self._save(replace(await self.get(task.id), state="failed", detail=str(error)))

    async def _scrub(self, task: Task) -> None:
        found = await read_record(self._parts.store, keys.drive(int(task.subject)), Drive)
        if found is None:
            raise NotFoundError("the drive is gone", code="drive_not_found")
        latest: list[pb.CommandResult] = []
        node = found[0].node
        asked = asyncio.create_task(
            self._parts.commander.scrub(node, task.id, found[0].id, latest.append)
        )
        try:
            while not asked.done():
                await asyncio.wait([asked], timeout=1.0)
                if latest:
                    await self._save(_scrub_progress(task, latest[-1]))
                    del latest[:]
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
        result = asked.result()
        if result.code:
            raise DrystoneError(result.message or result.code, code=result.code)
        scrub, now_s = result.scrub, int(self._parts.wall())
        left = scrub.bad_blocks - min(scrub.healed_blocks, scrub.bad_blocks)
        record = Scrubbed(int(task.subject), now_s, now_s, scrub.bad_blocks, left)
        done = replace(_scrub_progress(task, result), state="done")
        await self._end(done, keys.scrub(record.id), record)

    async def _compare(self, task: Task) -> None:
        parts = self._parts
        work = PoolCompare(parts.store, parts.commander, self._save, parts.monotonic)
        ended, progress = await work.run(task)
        record = progress.record(int(task.subject), parts.wall())
        await self._end(replace(ended, state="done"), keys.compare(record.id), record)

    async def _end(self, task: Task, key: str, record: Scrubbed) -> None:
        """What was found is recorded with the end of the task."""
        await self._parts.store.txn(
            [], [Put(keys.task(task.id), encode(task)), Put(key, encode(record))]
        )
        for told in self.on_scrubbed:
            told(task.kind, record)

    async def _retest(self, task: Task) -> None:
        outcome = await self._parts.test(int(task.subject))
        word = "passed" if outcome.passed else "not passed"
        state = "done" if outcome.passed else "failed"
        await self._save(replace(task, state=state, detail=f"{word}: {outcome.text}"))

    async def _balance(self, task: Task) -> None:
        async with contextlib.aclosing(self._parts.balance(int(task.subject))) as looks:
            async for left in looks:
                total = max(task.total, left)
                shown = replace(task, done=total - left, total=total, detail=f"{left} groups left")
                if shown != task:
                    task = shown
                    await self._save(task)
        await self._save(replace(task, state="done", detail="every drive has its share"))

    async def _record_loss(self, task: Task) -> None:
        pool, pg, epoch = (int(part) for part in task.subject.split("."))
        lost = LostPg(pg, epoch)
        after = int(task.cursor, 16) if task.cursor else 0
        more = True
        while more:
            volumes, more = await self._parts.volumes.list(after, PAGE)
            for volume in volumes:
                if volume.pool == pool:
                    await self._parts.volumes.update(volume.id, lambda v: _with_loss(v, lost))
            if volumes:
                after = volumes[-1].id
                task = replace(task, cursor=f"{after:016x}", done=task.done + len(volumes))
                await self._save(task)
        await self._save(replace(task, state="done"))

    async def _save(self, task: Task) -> None:
        await self._parts.store.txn([], [Put(keys.task(task.id), encode(task))])


def _with_loss(volume: Volume, lost: LostPg) -> Volume:
    if lost in volume.lost_pgs:
        return volume
    return replace(volume, lost_pgs=(*volume.lost_pgs, lost)[-LOST_MAX:])


def _scrub_progress(task: Task, result: pb.CommandResult) -> Task:
    scrub = result.scrub
    left = scrub.bad_blocks - min(scrub.healed_blocks, scrub.bad_blocks)
    detail = f"bad {scrub.bad_blocks}, healed {scrub.healed_blocks}"
    detail += f", not healed {left}" if left else ""
    return replace(task, done=scrub.bytes_done, total=scrub.bytes_total, detail=detail)
