"""The task that compares what all copies of a pool hold, one group after the other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from drystone_common.errors import DataError, DrystoneError, NotFoundError
from drystone_common.logs import get_logger
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.records import (
    Differing,
    Drive,
    DriveState,
    Layer,
    LayerState,
    Scrubbed,
    Task,
)
from drystone_storaged.cluster.store import MetadataStore
from drystone_storaged.cluster.txn import read_record
from drystone_storaged.manager.commander import Commander
from drystone_storaged.proto import control_pb2 as pb

log = get_logger(__name__)

TRIES: Final = 5  # of one group: its members change while servers restart
AGAIN_S: Final = 2.0  # between them: a drop, an election or another comparison is over by then
SAVE_S: Final = 1.0  # between two records of progress: a group of little data takes milliseconds
COPIES_MIN: Final = 2  # one alone has nothing to be compared with
EXAMPLES_MAX: Final = 5  # in a record and in a sentence; the log of the server has more


@dataclass(frozen=True, slots=True)
class Progress:
    """What was compared so far; the task's cursor, so that the next leader goes on."""

    pg: int = 0
    chunks: int = 0
    blocks: int = 0
    unstable: int = 0
    bad: int = 0
    differing: tuple[Differing, ...] = ()
    skipped: tuple[int, ...] = ()
    """Groups that could not be compared."""

    @classmethod
    def of(cls, task: Task) -> Progress:
        """As the task says."""
        return decode(cls, task.cursor.encode()) if task.cursor else cls()

    def after(self, seen: pb.Compared | None, pool: str) -> Progress:
        """With one more group; None = it could not be compared."""
        if seen is None:
            return replace(self, pg=self.pg + 1, skipped=(*self.skipped, self.pg))
        differing = self.differing
        if seen.divergent:
            told = [_example(pool, self.pg, one) for one in seen.examples]
            left = EXAMPLES_MAX - len(_examples(differing))
            differing = (*differing, Differing(self.pg, seen.divergent, tuple(told[:left])))
        return Progress(
            self.pg + 1,
            self.chunks + seen.chunks,
            self.blocks + seen.blocks,
            self.unstable + seen.unstable,
            self.bad + seen.bad_here + seen.bad_there,
            differing,
            self.skipped,
        )

    def shown(self, task: Task, groups: int) -> Task:
        """The task with this progress, and what was found in words."""
        return replace(
            task, cursor=encode(self).decode(), done=self.pg, total=groups, detail=self.words()
        )

    def words(self) -> str:
        """What was found."""
        text = f"{self.blocks} blocks of {self.pg - len(self.skipped)} groups compared"
        if self.differing:
            text += f", {_blocks(self.differing)} differ: {'; '.join(_examples(self.differing))}"
        else:
            text += ", these are equal" if self.skipped else ", all equal"
        text += f"; {self.bad} cannot be read at a copy and are healed there" if self.bad else ""
        text += f"; {self.unstable} were being written" if self.unstable else ""
        text += f"; {len(self.skipped)} groups could not be compared" if self.skipped else ""
        return text

    def record(self, pool: int, now_s: float, before: Scrubbed | None) -> Scrubbed:
        """What is remembered of it: a group that differed does until it is compared and equal."""
        now, skipped = int(now_s), set(self.skipped)
        kept = [one for one in (before.differing if before else ()) if one.pg in skipped]
        found = tuple(sorted((*self.differing, *kept), key=lambda one: one.pg))
        told = _examples((*self.differing, *kept))[:EXAMPLES_MAX]
        return Scrubbed(pool, now, now, self.bad, 0, _blocks(found), len(skipped), told, found)


def _blocks(found: Iterable[Differing]) -> int:
    return sum(one.blocks for one in found)


def _examples(found: Iterable[Differing]) -> tuple[str, ...]:
    return tuple(text for one in found for text in one.examples)


async def last(store: MetadataStore, pool: int) -> Scrubbed | None:
    """How the last comparison of a pool ended; one that cannot be read counts as none."""
    with contextlib.suppress(DataError):
        found = await read_record(store, keys.compare(pool), Scrubbed)
        return found[0] if found else None
    return None


def _example(pool: str, pg: int, one: pb.Divergent) -> str:
    return (
        f"group {pool}/{pg}, layer {one.layer:016x}, chunk {one.chunk}, block {one.block}: "
        f"{one.here}, but {one.there} on drive {one.drive}"
    )


@dataclass(frozen=True, slots=True)
class PoolCompare:
    """Compares the groups of one pool."""

    store: MetadataStore
    commander: Commander
    save: Callable[[Task], Awaitable[None]]
    monotonic: Callable[[], float]

    async def run(self, task: Task) -> tuple[Task, Progress]:
        """From where the task stands to the end."""
        progress, number = Progress.of(task), int(task.subject)
        state, saved_s = await self._read(number), self.monotonic()
        groups = state.pools[number].pg_count
        while progress.pg < groups:
            seen = await self._group(PgRef(number, progress.pg), state)
            if seen is None:
                state = await self._read(number)
            progress = progress.after(seen, state.pools[number].name)
            if self.monotonic() - saved_s >= SAVE_S:
                saved_s = self.monotonic()
                await self.save(progress.shown(task, groups))
                state = await self._read(number)
        return progress.shown(task, groups), progress

    async def _read(self, pool: int) -> MapState:
        state = await read_state(self.store)
        if pool not in state.pools:
            raise NotFoundError("the pool is gone", code="pool_not_found")
        return state

    async def _group(self, ref: PgRef, state: MapState) -> pb.Compared | None:
        """One group, by whoever is its first in-sync drive then; None = it cannot be compared."""
        found = None
        for turn in range(TRIES):
            if turn:
                await asyncio.sleep(AGAIN_S)
                state = await self._read(ref.pool)
            members = self._members(ref, state)
            if len(members) == 1 == state.pools[ref.pool].width:
                return pb.Compared()  # there is one copy only
            if len(members) < COPIES_MIN:
                return found
            seen = await self._asked(members[0], ref)
            if seen is None:
                continue
            gone = await self._deleted(seen.examples)
            if not gone:
                return seen
            # Deleted here sooner than there: that passes, unless a drive is away.
            found = _without(seen, gone)
        return found

    @staticmethod
    def _members(ref: PgRef, state: MapState) -> list[Drive]:
        """In-sync drives of a group; none where one of them is down or not known."""
        record = state.known_pgs(ref.pool).get(ref)
        drives = [state.drives.get(number) for number in record.insync] if record else []
        up = [d for d in drives if d is not None and d.state is DriveState.UP]
        return up if len(up) == len(drives) else []

    async def _asked(self, drive: Drive, ref: PgRef) -> pb.Compared | None:
        try:
            result = await self.commander.compare(drive.node, drive.id, ref)
        except DrystoneError as error:
            code, reason = error.code, str(error)
        else:
            code, reason = result.code, result.message
        if not code:
            return result.compared
        log.info("a group is not compared", pool=ref.pool, pg=ref.pg, code=code, reason=reason)
        return None

    async def _deleted(self, told: Iterable[pb.Divergent]) -> set[int]:
        """Layers of these that are being deleted, or are."""
        gone = set()
        for layer in {one.layer for one in told}:
            found = await read_record(self.store, keys.layer(layer), Layer)
            if found is None or found[0].state is LayerState.DELETED:
                gone.add(layer)
        return gone


def _without(seen: pb.Compared, layers: set[int]) -> pb.Compared:
    """The same without what differs of these layers."""
    left = [one for one in seen.examples if one.layer not in layers]
    rest = seen.divergent - (len(seen.examples) - len(left))
    same = {name: getattr(seen, name) for name in ("chunks", "blocks", "unstable")}
    return pb.Compared(
        **same, bad_here=seen.bad_here, bad_there=seen.bad_there, divergent=rest, examples=left
    )
