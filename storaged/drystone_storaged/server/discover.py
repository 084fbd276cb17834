"""What this node has that could be a drive: listed often and cheaply, examined where it moved."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from uuid import UUID

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.attach.command import Runner
from drystone_storaged.attach.sysfs import text
from drystone_storaged.proto import control_pb2
from drystone_storaged.server.examine import Examiner, Finding, State
from drystone_storaged.server.folders import SILENT, Folders
from drystone_storaged.server.lsblk import NAMELESS, Disk, list_disks

PERIOD_S: Final = 10.0
"""Between two looks at a few small files of /proc and the folders: they tell what moved."""

FULL_S: Final = 60.0  # between two looks when nothing is seen to move: a wipe leaves no trace
DEVICES_MAX: Final = 256
"""Told to the manager: many times what one node may have as drives. The others are left out, in the
order of their paths, and the log says so."""

AT_ONCE: Final = 4  # examinations; each reads 2 MiB and starts blkid twice
MOVES: Final = ("/proc/partitions", "/proc/self/mountinfo", "/proc/swaps")

STATES: Final = {
    State.BLANK: control_pb2.DEVICE_STATE_BLANK,
    State.OURS: control_pb2.DEVICE_STATE_OURS,
    State.FOREIGN: control_pb2.DEVICE_STATE_FOREIGN,
    State.IN_USE: control_pb2.DEVICE_STATE_IN_USE,
}

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Served:
    """A device that this server has open, or is to open: it is not examined from outside."""

    uuid: str
    configured: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """A device and what is on it."""

    disk: Disk
    finding: Finding
    configured: bool = False


class Discovery:
    """Keeps the list of devices; ``served`` says by id or path what this server serves."""

    def __init__(
        self,
        runner: Runner,
        examiner: Examiner,
        folders: Sequence[str],
        served: Callable[[], Mapping[str, Served]],
        *,
        kinds: Sequence[str] = ("disk", "mpath"),
    ) -> None:
        self._runner = runner
        self._examiner = examiner
        self._folders = Folders(folders)
        self._served = served
        self._kinds = tuple(kinds)
        self._lock = asyncio.Lock()
        self._asked = asyncio.Event()
        self._mark = ""
        self._said: dict[str, str] = {}
        self._listed: list[Disk] = []
        self.seen: tuple[Seen, ...] = ()
        self.looked = False
        self.on_look: list[Callable[[], None]] = []
        """Called after each look, whether or not something changed."""

    def ask(self) -> None:
        """Look soon."""
        self._asked.set()

    async def look(self) -> tuple[Seen, ...]:
        """Look now; one look at a time, errors leave the part out that cannot be seen."""
        async with self._lock:
            files = await self._folders.files()
            self._mark = await self._moves(files)
            disks = [*await self._disks(), *files]
            served = await self._by_real_path(self._served())
            chosen = self._limited(disks, served)
            self._examiner.keep_only(frozenset(d.path for d in chosen))
            gate = asyncio.Semaphore(AT_ONCE)
            found = await asyncio.gather(*(self._one(d, served, gate) for d in chosen))
            self.seen = tuple(s for s in found if s.finding.state is not State.GONE)
            self.looked = True
        for call in self.on_look:
            call()
        return self.seen

    def find(self, device: str) -> Seen | None:
        """A device of the last look."""
        return next((s for s in self.seen if s.disk.id == device), None)

    async def is_still(self, device: str, path: str) -> bool:
        """Whether this path still leads to that device: names are given anew when disks change."""
        if device.startswith("file:"):
            return device == f"file:{path}"
        disks = await list_disks(self._runner, path=path, kinds=self._kinds)
        return any(disk.id == device and disk.path == path for disk in disks)

    async def run(self) -> None:
        """Look when something moves, and now and then, until cancelled."""
        loop = asyncio.get_running_loop()
        full_at = loop.time()
        while True:
            asked = self._asked.is_set()
            self._asked.clear()
            due = asked or loop.time() >= full_at
            try:
                due |= await self._moves(await self._folders.files()) != self._mark
                if due:
                    await self.look()
            except Exception:  # noqa: BLE001 - no disk, however strange, ends the server of the others
                _log.exception("devices_look_failed")
            if due:
                full_at = loop.time() + FULL_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S):
                    await self._asked.wait()

    async def _one(self, disk: Disk, served: Mapping[str, Served], gate: asyncio.Semaphore) -> Seen:
        # Files are listed by their real paths; those of disks lie in /dev, which never hangs.
        is_file = disk.device_class == "file"
        real = disk.path if is_file else await asyncio.to_thread(os.path.realpath, disk.path)
        mine = served.get(disk.id) or served.get(real)
        if mine is not None:
            found = f"drystone drive {mine.uuid}" if mine.uuid else "in the server's settings"
            return Seen(disk, Finding(State.OURS, found, mine.uuid), mine.configured)
        if disk.use:
            return Seen(disk, Finding(State.IN_USE, disk.use))
        if self._folders.is_silent(disk):
            return Seen(disk, Finding(State.FOREIGN, SILENT))
        async with gate:
            finding = await self._examiner.examine(disk.path, sequence=disk.sequence)
        if disk.holds and finding.state is State.BLANK:
            finding = Finding(State.FOREIGN, disk.holds)
        if disk.id.startswith(NAMELESS) and finding.state is State.BLANK:
            why = "it has neither a WWN nor a serial number: name its path in the settings instead"
            finding = Finding(State.FOREIGN, why)
        return Seen(disk, finding)

    async def _disks(self) -> list[Disk]:
        try:
            disks = await list_disks(self._runner, kinds=self._kinds)
        except DrystoneError as error:
            self._say("disks", str(error))
            return self._listed
        self._said.pop("disks", None)
        self._listed = disks
        return disks

    async def _by_real_path(self, served: Mapping[str, Served]) -> dict[str, Served]:
        paths = [path for path, one in served.items() if one.configured]
        real = await asyncio.gather(*(self._folders.real(path) for path in paths))
        return {**served, **{r: served[path] for r, path in zip(real, paths, strict=True)}}

    def _limited(self, disks: Iterable[Disk], served: Mapping[str, Served]) -> list[Disk]:
        ordered = sorted(disks, key=lambda d: (d.id not in served, d.path))
        left = len(ordered) - DEVICES_MAX
        if left > 0:
            self._say("limit", f"{left} devices are left out of {len(ordered)}")
        return ordered[:DEVICES_MAX]

    def _say(self, part: str, reason: str) -> None:
        """Log a reason once, not at each look."""
        if self._said.get(part) != reason:
            self._said[part] = reason
            _log.warning("devices_not_seen", part=part, reason=reason)

    async def _moves(self, files: Iterable[Disk]) -> str:
        """A digest of what changes when a disk comes, goes, is mounted or a file is made."""
        told = await asyncio.to_thread(lambda: [text(Path(name)) or "" for name in MOVES])
        told += [f"{d.path} {d.size} {d.sequence}" for d in files]
        told += self._folders.silent
        return hashlib.sha256("\n".join(told).encode()).hexdigest()


def message_of(seen: Iterable[Seen]) -> control_pb2.Devices:
    """The list as the manager takes it."""
    return control_pb2.Devices(
        discovers=True,
        devices=[
            control_pb2.Device(
                id=s.disk.id,
                path=s.disk.path,
                size_bytes=s.disk.size,
                device_class=s.disk.device_class,
                serial=s.disk.serial,
                wwn=s.disk.wwn,
                model=s.disk.model,
                state=STATES.get(s.finding.state, control_pb2.DEVICE_STATE_FOREIGN),
                found=s.finding.found,
                drive=UUID(s.finding.drive).bytes if s.finding.drive else b"",
                configured=s.configured,
            )
            for s in seen
        ],
    )
