"""A load of small durable writes in a process of its own, which knows what it was told.

It writes blocks ``0..slots-1`` of a region round and round, each time with other known content,
and remembers per block the last write that was acknowledged and the last one that was tried.
Whatever happens, afterwards a block must hold a write not older than the acknowledged one and not
newer than the tried one.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from tests.e2e.lib.content import BLOCK_BYTES, content, matching_sequence
from tests.e2e.lib.disk import Disk, open_disk
from tests.e2e.lib.waits import wait_for

PROGRESS_S: Final = 0.1
STOP_WAIT_S: Final = 90.0  # longer than the client's own deadline for one request
ERRORS_MAX: Final = 1000  # a fenced device refuses as fast as it is asked
ERROR_PAUSE_S: Final = 0.02
BLOCKS_READ_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Region:
    """Where the blocks are: ``slots`` blocks from block ``first``; ``seed`` makes them unique."""

    where: str
    first: int
    slots: int
    seed: int


@dataclass(frozen=True, slots=True)
class Report:
    """What the writer saw. Times are CLOCK_MONOTONIC seconds."""

    acked: tuple[int, ...]
    tried: tuple[int, ...]
    writes: int
    errors: int
    first_error: str
    gap: tuple[float, float]

    @property
    def gap_s(self) -> float:
        """The longest time that one write took."""
        return self.gap[1] - self.gap[0]


class Writer:
    """Starts the process; ``stop`` ends it and gives its report."""

    def __init__(self, region: Region, threads: int = 1) -> None:
        self.region = region
        argv = [
            sys.executable, "-m", "tests.e2e.lib.writer", region.where, str(region.first),
            str(region.slots), str(region.seed), str(threads),
        ]  # fmt: skip
        self._process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._latest: dict[str, Any] = {"writes": 0, "errors": 0}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def writes(self) -> int:
        """Acknowledged so far."""
        return int(self._latest["writes"])

    @property
    def errors(self) -> int:
        """Refused so far."""
        return int(self._latest["errors"])

    def goes_on(self, more: int, deadline_s: float) -> None:
        """Wait until this many further writes were acknowledged."""
        target = self.writes + more
        wait_for(lambda: self.writes >= target, f"{more} further writes acknowledged", deadline_s)

    def stop(self) -> Report:
        """End it after what is under way."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._close()
            raise
        self._close()
        found = self._latest
        return Report(
            tuple(found["acked"]), tuple(found["tried"]), found["writes"], found["errors"],
            found["first_error"], (found["gap"][0], found["gap"][1]),
        )  # fmt: skip

    def _close(self) -> None:
        self._reader.join(STOP_WAIT_S)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self) -> None:
        for line in self._process.stdout or ():
            self._latest = json.loads(line)


def verify(region: Region, report: Report) -> int:
    """Read every block back that was ever written here; ValueError names a wrong one.

    Gives the number checked: those that the writer did not come to hold what was there before.
    """
    disk = open_disk(region.where)
    try:
        for begin in range(0, region.slots, BLOCKS_READ_MAX):
            count = min(BLOCKS_READ_MAX, region.slots - begin)
            data = disk.read((region.first + begin) * BLOCK_BYTES, count * BLOCK_BYTES)
            for slot in range(begin, begin + count):
                block = data[(slot - begin) * BLOCK_BYTES :][:BLOCK_BYTES]
                _check(region, report, slot, block)
    finally:
        disk.close()
    return sum(tried > 0 for tried in report.tried)


def _check(region: Region, report: Report, slot: int, block: bytes) -> None:
    acked, tried = report.acked[slot], report.tried[slot]
    if acked == 0 and (tried == 0 or not any(block)):
        return
    allowed = range(max(acked, 1), max(acked, tried) + 1)
    if matching_sequence(region.seed, slot, block, allowed) is None:
        older = matching_sequence(region.seed, slot, block, range(1, acked))
        what = f"the older write {older}" if older else "none of its writes"
        raise ValueError(
            f"block {region.first + slot} holds {what}; acknowledged {acked}, tried {tried}"
        )


@dataclass(slots=True)
class _State:
    slots: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)
    acked: list[int] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)
    writes: int = 0
    errors: int = 0
    first_error: str = ""
    gap: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        self.acked = [0] * self.slots
        self.tried = [0] * self.slots


def _thread(region: Region, state: _State, mine: range) -> None:
    """One thread: a connection or open file of its own."""
    try:
        disk = open_disk(region.where)
    except (OSError, EOFError) as error:
        _failed(state, error)
        return
    _load(region, state, disk, mine)


def _load(region: Region, state: _State, disk: Disk, mine: range) -> None:
    """Write the thread's own blocks, one at a time."""
    while not state.stop.is_set():
        for slot in mine:
            if state.stop.is_set():
                return
            state.tried[slot] += 1
            data = content(region.seed, slot, state.tried[slot])
            began = time.monotonic()
            try:
                disk.write((region.first + slot) * BLOCK_BYTES, data)
            except OSError as error:
                if _failed(state, error):
                    return
                continue
            ended = time.monotonic()
            with state.lock:
                state.acked[slot] = state.tried[slot]
                state.writes += 1
                if ended - began > state.gap[1] - state.gap[0]:
                    state.gap = (began, ended)


def _failed(state: _State, error: Exception) -> bool:
    with state.lock:
        state.errors += 1
        state.first_error = state.first_error or str(error)
        return state.stop.wait(ERROR_PAUSE_S) or state.errors >= ERRORS_MAX


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("where")
    for name in ("first", "slots", "seed", "threads"):
        parser.add_argument(name, type=int)
    args = parser.parse_args()
    region = Region(args.where, args.first, args.slots, args.seed)
    state = _State(args.slots)
    workers = [
        threading.Thread(
            target=_thread,
            args=(region, state, range(number, args.slots, args.threads)),
            daemon=True,
        )
        for number in range(args.threads)
    ]
    for worker in workers:
        worker.start()
    while not select.select([sys.stdin], [], [], PROGRESS_S)[0]:
        print(json.dumps({"writes": state.writes, "errors": state.errors}), flush=True)
    state.stop.set()
    for worker in workers:
        worker.join()
    print(json.dumps({name: getattr(state, name) for name in (
        "acked", "tried", "writes", "errors", "first_error", "gap")}), flush=True)  # fmt: skip
    # Connections end with the process: closing one whose server is gone may wait for nothing.
    os._exit(0)


if __name__ == "__main__":
    _main()
