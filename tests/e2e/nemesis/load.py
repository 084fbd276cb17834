"""One connection of the load: it makes requests and writes down what became of them.

Nothing is sent twice. What an error or a lost connection leaves open may or may not have been
done; the connection goes on with a new number.
"""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Final

from tests.e2e.lib.content import BLOCK_BYTES
from tests.e2e.lib.nbd import Nbd, NbdLostError, NbdRefusedError
from tests.e2e.nemesis.base import resume
from tests.e2e.nemesis.history import CHANGES, DAMAGED, NEVER, Verb, value_of
from tests.e2e.nemesis.journal import Kind, Record
from tests.e2e.nemesis.mix import Target, Task, Wish, choose
from tests.e2e.nemesis.stamp import StampError, read_stamp, stamp

CONNECT_S: Final = 1.0  # then it is noted as failed, and tried again
REQUEST_S: Final = 120.0
"""Longer than the longest fault (80 s): only a request that hangs for good is given up."""

AFTER_ERROR_S: Final = 0.05  # a fenced device refuses as fast as it is asked
DAMAGED_KEPT_MAX: Final = 32  # as many blocks as anybody will look at


class Connection:
    """One of them. Its thread calls ``step``; ``read`` may be called while that one rests."""

    def __init__(self, task: Task, index: int) -> None:
        self._task, self._index = task, index
        self._client = task.first_client + index
        self._journal, self._count = resume(Path(task.folder), self._client)
        # Another choice of blocks after each start, and the same one when a run is repeated.
        self._rng = random.Random(f"{task.seed}/{self._client}/{self._journal.segment}")
        self._lock = threading.Lock()
        self._target = Target(task.uri, task.attach, task.generation)
        self._nbd = _nbd(task.uri)
        self._busy = False  # with a request, under the lock: then its thread closes what it used
        self._kept = 0
        self.counts: dict[str, int] = dict.fromkeys(("ok", "error", "lost", "damaged", "acked"), 0)

    def attach(self, target: Target) -> None:
        """From the next request on go elsewhere; what is open is given up."""
        with self._lock:
            old, self._nbd, self._target = self._nbd, _nbd(target.uri), target
            if not self._busy:
                old.close()
        old.retire()

    def abandon(self) -> None:
        """Give up what is open."""
        self._nbd.abandon()

    def rotate(self) -> None:
        """Begin a new segment of the journal; nothing may be under way."""
        self._journal.rotate()

    def close(self) -> None:
        """End it; nothing may be under way."""
        self._nbd.close()
        self._journal.close()

    def step(self) -> bool:
        """Make one request; False after one that failed."""
        return self._perform(choose(self._rng, self._task.layout, self._index))

    def read(self, block: int, blocks: int) -> bool:
        """Read this many blocks and note what they hold."""
        return self._perform(Wish(Verb.READ, block, blocks))

    def _perform(self, wish: Wish) -> bool:
        with self._lock:
            nbd, target = self._nbd, self._target
            self._busy = True
        try:
            return self._connected(nbd, target) and self._asked(nbd, target, wish)
        finally:
            with self._lock:
                self._busy = False
                if nbd is not self._nbd:  # another attachment in the meantime
                    nbd.close()

    def _asked(self, nbd: Nbd, target: Target, wish: Wish) -> bool:
        value = 0
        if wish.verb == Verb.WRITE:
            self._count += 1
            value = value_of(self._client, self._count)
        start = time.monotonic()
        if wish.verb in CHANGES:
            self._note(Kind.INVOKE, wish, target, value, (start, NEVER))
        try:
            data = self._request(nbd, wish, value)
        except (NbdRefusedError, NbdLostError) as error:
            refused = isinstance(error, NbdRefusedError)
            kind = Kind.ERROR if refused else Kind.LOST
            self._note(kind, wish, target, value, (start, time.monotonic()))
            self.counts["error" if refused else "lost"] += 1
            return False
        times = (start, time.monotonic())
        if wish.verb == Verb.READ:
            self._saw(wish, target, data, times)
        else:
            self._note(Kind.OK, wish, target, value, times)
            self.counts["acked"] += wish.verb in CHANGES
        self.counts["ok"] += 1
        return True

    def _connected(self, nbd: Nbd, target: Target) -> bool:
        start = time.monotonic()
        try:
            made = nbd.ready()
        except ConnectionError:
            made, kind = True, Kind.LOST
        else:
            kind = Kind.OK
        if made:
            times = (start, time.monotonic())
            self._note(kind, Wish(Verb.CONNECT, 0, 0), target, 0, times)
        return kind == Kind.OK

    def _request(self, nbd: Nbd, wish: Wish, value: int) -> bytes:
        offset, length = wish.block * BLOCK_BYTES, wish.blocks * BLOCK_BYTES
        if wish.verb == Verb.READ:
            return nbd.read(offset, length)
        if wish.verb == Verb.FLUSH:
            nbd.flush()
        elif wish.verb == Verb.TRIM:
            nbd.trim(offset, length)
        else:
            seed, volume = self._task.seed, self._task.volume
            blocks = range(wish.block, wish.block + wish.blocks)
            data = b"".join(stamp(seed, volume, block, value) for block in blocks)
            # Acknowledged is durable, asked for or not: both kinds must survive.
            nbd.write(offset, data, fua=self._rng.random() < 0.5)
        return b""

    def _saw(self, wish: Wish, target: Target, data: bytes, times: tuple[float, float]) -> None:
        """Note what a read saw: one record for neighbours that the same write left."""
        values = [
            self._value(wish.block + n, data[n * BLOCK_BYTES : (n + 1) * BLOCK_BYTES])
            for n in range(wish.blocks)
        ]
        begin = 0
        for n in range(1, wish.blocks + 1):
            if n == wish.blocks or values[n] != values[begin]:
                run = Wish(Verb.READ, wish.block + begin, n - begin)
                self._note(Kind.OK, run, target, values[begin], times)
                begin = n

    def _value(self, block: int, data: bytes) -> int:
        try:
            return read_stamp(self._task.seed, self._task.volume, block, data)
        except StampError as error:
            self.counts["damaged"] += 1
            self._keep(block, data, str(error))
            return DAMAGED

    def _keep(self, block: int, data: bytes, what: str) -> None:
        """Keep damaged bytes for people to look at."""
        self._kept += 1
        if self._kept <= DAMAGED_KEPT_MAX:
            name = f"damaged-{self._client}-{self._journal.segment}-{self._kept}-block-{block}"
            path = Path(self._task.folder, name)
            path.with_suffix(".bin").write_bytes(data)
            path.with_suffix(".txt").write_text(f"{time.monotonic():.6f} {what}\n")

    def _note(
        self, kind: Kind, wish: Wish, target: Target, value: int, times: tuple[float, float]
    ) -> None:
        self._journal.note(Record(
            kind, wish.verb, wish.blocks, wish.block, value, *times,
            target.attach, target.generation,
        ))  # fmt: skip


def _nbd(uri: str) -> Nbd:
    return Nbd(uri, resend=False, reconnect_s=CONNECT_S, timeout_s=REQUEST_S)
