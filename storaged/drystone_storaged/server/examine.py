"""What is on a disk or file: blank, ours, or something that must not be touched.

"Blank" is a claim that data may be lost by, so everything must agree: nobody holds the device, two
probes of blkid find nothing, the first and the last MiB are zeros, and the native module finds no
trace of a drive. A probe that fails, hangs or cannot be run is never "blank".
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar
from uuid import UUID

from drystone_common.errors import DataError, DeadlineError
from drystone_storaged.attach import sysfs
from drystone_storaged.attach.command import Runner
from drystone_storaged.server.hanging import LOOK_S, in_thread
from drystone_storaged.server.prepare import DriveTools

PROBE_S: Final = LOOK_S
EDGE_BYTES: Final = 1 << 20
"""Partition tables, file systems, RAID and volume managers all leave something within this much of
one of the ends; what is left in the middle after a wipe of the ends is nobody's any more."""

SIZE_MIN: Final = 16 * (64 << 20) + 2 * 16 * 4096
"""The least that the native format takes: 16 segments of 64 MiB and both edges (on-disk format)."""

HUNG_MAX: Final = 64
"""Threads that wait for dead disks, one a path; beyond that no path is asked any more, a good one
neither. As many as one server may have drives: a dead mount may hold all but one of them."""

BLKID_BLANK: Final = 2  # the documented exit code for "nothing found"
BLKID_AMBIVALENT: Final = 8
SWAPS: Final = Path("/proc/swaps")

T = TypeVar("T")


class State(StrEnum):
    """What may be done with a device."""

    BLANK = "blank"
    OURS = "ours"
    FOREIGN = "foreign"
    IN_USE = "in_use"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Finding:
    """What an examination found; ``drive`` is the uuid in the superblock of one of ours."""

    state: State
    found: str = ""
    drive: str = ""


_TOO_SMALL: Final = Finding(State.FOREIGN, "too small: a drive needs a little over 1 GiB")
_ELSEWHERE: Final = {
    "missing": Finding(State.GONE),
    "in-use": Finding(State.IN_USE, "open in another process"),
}
"""Answers of the native module that say nothing about what is on the device."""


@dataclass(frozen=True, slots=True)
class _Edges:
    """The two ends of a device, as far as a decision needs them."""

    zero: bool
    digest: str


class Examiner:
    """Looks at devices, each look bounded; remembers what it saw where nothing moved."""

    def __init__(self, runner: Runner, tools: DriveTools, cluster: UUID) -> None:
        self._runner = runner
        self._tools = tools
        self._cluster = str(cluster)
        self._seen: dict[str, tuple[str, Finding]] = {}
        self._hung: dict[str, asyncio.Future[Any]] = {}

    async def examine(self, path: str, *, sequence: str = "", fresh: bool = False) -> Finding:
        """Look at a device; never raises for what is wrong with it."""
        try:
            return await self._examine(path, sequence, fresh=fresh)
        except TimeoutError:
            return Finding(State.FOREIGN, f"it did not answer within {PROBE_S:.0f} s")
        except FileNotFoundError:
            return Finding(State.GONE)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a disk, it is not blank
            return Finding(State.FOREIGN, f"it cannot be examined: {error}"[:300])

    async def require_blank(self, path: str) -> None:
        """Raise unless everything agrees, now, that there is nothing on it."""
        found = await self.examine(path, fresh=True)
        if found.state is not State.BLANK:
            raise DataError(
                f"{path} is not blank: {found.found or found.state.value}",
                code="drive_foreign",
                hint="wipe it (signatures, first and last MiB) if that is not needed",
            )

    async def require_answer(self, path: str) -> None:
        """Raise if the device does not answer; other troubles are told better by who opens it."""
        try:
            await self._blocking(path, lambda: _read_edges(path))
        except TimeoutError as error:
            raise DeadlineError(
                f"{path} did not answer within {PROBE_S:.0f} s",
                code="drive_silent",
                hint="see the kernel log and the cables; the server tries again by itself",
            ) from error
        except (OSError, ValueError):
            return

    def keep_only(self, paths: frozenset[str]) -> None:
        """Forget what was seen at other paths."""
        self._seen = {path: seen for path, seen in self._seen.items() if path in paths}

    async def _examine(self, path: str, sequence: str, *, fresh: bool) -> Finding:
        used = await self._blocking(path, lambda: _user_of(path))
        if used:
            return Finding(State.IN_USE, used)
        edges = await self._blocking(path, lambda: _read_edges(path))
        key = f"{sequence} {edges.digest}"
        known = self._seen.get(path)
        # Opening a disk for writing, as the native look does, makes udev probe it: not each time.
        if known is not None and known[0] == key and not fresh:
            return known[1]
        found, lasting = await self._probe(path, edges)
        if lasting:
            self._seen[path] = (key, found)
        return found

    async def _probe(self, path: str, edges: _Edges) -> tuple[Finding, bool]:
        """What is on it, and whether that holds for as long as its ends stay as they are."""
        # Ours first: the data of a drive may look like a file system, at places blkid looks at.
        found = json.loads(await self._blocking(path, lambda: self._tools.inspect_drive(path)))
        state, reason = str(found["state"]), str(found.get("reason", ""))
        if state == "drystone":
            return self._drive(str(found["cluster"]), str(found["uuid"])), True
        if state in _ELSEWHERE:
            return _ELSEWHERE[state], False
        signatures = {await self._blkid(path) for _ in range(2)}
        if signatures != {""}:
            words = sorted(s or "nothing" for s in signatures)
            text = words[0] if len(words) == 1 else f"two probes disagree: {' / '.join(words)}"
            return Finding(State.FOREIGN, text), len(words) == 1
        if state == "blank" and edges.zero:
            small = int(found["size"]) < SIZE_MIN
            return (_TOO_SMALL if small else Finding(State.BLANK)), True
        if state in ("blank", "foreign"):
            return Finding(State.FOREIGN, "data without a known signature"), True
        why = f"a damaged drystone drive, or too small: {reason}"[:300]
        return Finding(State.FOREIGN, why), False

    def _drive(self, cluster: str, uuid: str) -> Finding:
        if cluster != self._cluster:
            return Finding(State.FOREIGN, f"drystone drive of cluster {cluster}")
        return Finding(State.OURS, f"drystone drive {uuid}", uuid)

    async def _blkid(self, path: str) -> str:
        """What blkid finds; empty only if it says that there is nothing."""
        argv = ("blkid", "-p", "-o", "export", "--", path)
        codes = (0, BLKID_BLANK, BLKID_AMBIVALENT)
        done = await self._runner.run(argv, timeout_s=PROBE_S, codes=codes)
        pairs = dict(line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
        if done.code == BLKID_AMBIVALENT:
            return "several signatures"
        if done.code == BLKID_BLANK and not pairs:
            return ""
        if "TYPE" in pairs:
            kind = pairs["TYPE"][:40]
            return f"{kind} file system" if pairs.get("USAGE") == "filesystem" else kind
        return f"partition table {pairs['PTTYPE'][:20]}" if "PTTYPE" in pairs else "a signature"

    async def _blocking(self, path: str, work: Callable[[], T]) -> T:
        """Run in a thread; one that hangs in the kernel is left behind and blocks its path only."""
        self._hung = {p: waiting for p, waiting in self._hung.items() if not waiting.done()}
        if path in self._hung or len(self._hung) >= HUNG_MAX:
            raise TimeoutError
        future = in_thread(work)
        try:
            done, _ = await asyncio.wait({future}, timeout=PROBE_S)
        except asyncio.CancelledError:
            self._hung[path] = future  # whoever asked is gone, the thread is not
            raise
        if not done:
            self._hung[path] = future
            raise TimeoutError
        return future.result()


def _user_of(path: str) -> str:
    """Who uses it; empty if nobody does. Of a device the kernel knows, mounted wherever it is."""
    mode = os.stat(path).st_mode  # noqa: PTH116 - one call, its raw fields
    if stat.S_ISBLK(mode):
        return "mounted, or part of another device" if sysfs.claimed(path) else ""
    if not stat.S_ISREG(mode):
        raise ValueError("neither a block device nor a file")
    loop = sysfs.loop_of(Path(path))
    if loop:
        return f"behind /dev/{loop}"
    lines = (sysfs.text(SWAPS) or "").splitlines()[1:]
    return "swap" if any(line.split(" ")[0].split("\t")[0] == path for line in lines) else ""


def _read_edges(path: str) -> _Edges:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
        # Of a disk that other machines see too, not what this one remembers.
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        head = _read(descriptor, 0, min(EDGE_BYTES, size))
        tail_at = max(0, size - EDGE_BYTES)
        tail = _read(descriptor, tail_at, size - tail_at)
    finally:
        os.close(descriptor)
    zero = not any(head) and not any(tail)
    return _Edges(zero, hashlib.sha256(b"%d" % size + head + tail).hexdigest())


def _read(descriptor: int, offset: int, size: int) -> bytes:
    found = bytearray()
    while len(found) < size:
        part = os.pread(descriptor, size - len(found), offset + len(found))
        if not part:
            raise OSError("it is shorter than it says")
        found += part
    return bytes(found)
