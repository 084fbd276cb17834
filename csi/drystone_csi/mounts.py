"""The mount table: what is mounted where, and changing it. The table is the driver's memory."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drystone_common.errors import (
    ConflictError,
    DataError,
    InvalidArgumentError,
    NotFoundError,
)
from drystone_storaged.attach.command import Runner

MOUNT_TIMEOUT_S: Final = 100.0
"""A mount may replay a journal. kubelet gives two minutes, and asks again."""

LOOK_TIMEOUT_S: Final = 10.0  # reading the table touches no device

_NOT_FOUND: Final = 1  # findmnt: nothing matches


@dataclass(frozen=True, slots=True)
class Mount:
    """One line of the table; ``number`` is the device as major:minor."""

    target: str
    source: str
    fs: str
    options: tuple[str, ...]
    number: str

    @property
    def read_only(self) -> bool:
        """Whether this mount refuses writes."""
        return "ro" in self.options


class Mounts:
    """Operations on the mount table of this process."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def at(self, target: str) -> Mount | None:
        """The topmost mount exactly at a path."""
        # The table has real paths; kubelet's root may be a symbolic link.
        real = await asyncio.to_thread(os.path.realpath, target)
        found = [mount for mount in await self._table() if mount.target == real]
        return found[-1] if found else None

    async def of_number(self, number: str) -> tuple[Mount, ...]:
        """Every mount of the file system on a device."""
        return tuple(mount for mount in await self._table() if mount.number == number)

    async def of_device_file(self, device: str) -> tuple[Mount, ...]:
        """Every place where the file of a device is bound (shown as ``devtmpfs[/loop0]``)."""
        suffix = f"[/{device.removeprefix('/dev/')}]"
        return tuple(mount for mount in await self._table() if mount.source.endswith(suffix))

    async def mount(self, device: str, target: str, fs: str, options: Sequence[str]) -> None:
        """Mount a device on an existing folder."""
        words = ("-o", ",".join(options)) if options else ()
        argv = ("mount", "-t", fs, *words, "--", device, target)
        await self._runner.run(argv, timeout_s=MOUNT_TIMEOUT_S)

    async def bind(self, source: str, target: str, *, read_only: bool) -> None:
        """Show a folder or a device file at another place.

        ``mount`` makes a read-only one in two steps, so one that a crash left between them is
        writable; the second step alone repairs it.
        """
        argv = ("mount", "--bind", "--", source, target)
        if await self.at(target) is None:
            await self._runner.run(argv, timeout_s=MOUNT_TIMEOUT_S)
        if read_only:
            again = ("mount", "-o", "remount,bind,ro", "--", target)
            await self._runner.run(again, timeout_s=MOUNT_TIMEOUT_S)

    async def unmount(self, target: str) -> None:
        """Unmount everything that is stacked at a path; nothing there is fine."""
        # Two are ours at most (a repeated bind); more than eight is not what we did.
        for _ in range(8):
            if await self.at(target) is None:
                return
            await self._runner.run(("umount", "--", target), timeout_s=MOUNT_TIMEOUT_S)
        raise ConflictError(f"{target} has more mounts stacked on it than this driver makes")

    async def _table(self) -> list[Mount]:
        argv = ("findmnt", "--json", "--list", "-o", "TARGET,SOURCE,FSTYPE,OPTIONS,MAJ:MIN")
        result = await self._runner.run(argv, timeout_s=LOOK_TIMEOUT_S, codes=(0, _NOT_FOUND))
        if result.code == _NOT_FOUND:
            return []
        try:
            rows = json.loads(result.stdout)["filesystems"]
            return [_mount(row) for row in rows]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError("findmnt's answer was not understood", code="bad_answer") from error


def _mount(row: dict[str, str | None]) -> Mount:
    return Mount(
        target=row["target"] or "",
        source=row["source"] or "",
        fs=row["fstype"] or "",
        options=tuple((row["options"] or "").split(",")),
        number=row["maj:min"] or "",
    )


def absolute(path: str, what: str) -> str:
    """Check a path of a request: absolute, without dots that lead elsewhere, no trailing slash."""
    if not path:
        raise InvalidArgumentError(f"{what} is missing from the request")
    # 4096 is the kernel's own limit for a path.
    if not path.startswith("/") or "\0" in path or len(path) > 4096:  # noqa: PLR2004
        raise InvalidArgumentError(f"{what} must be an absolute path")
    normal = os.path.normpath(path)
    if ".." in Path(path).parts:
        raise InvalidArgumentError(f"{what} must not contain '..'")
    return normal


def published(path: str) -> str:
    """Check the path of a volume that is said to be there; nothing is at a malformed one."""
    try:
        return absolute(path, "volume path")
    except InvalidArgumentError as error:
        if not path:
            raise
        raise NotFoundError(error.message, code="volume_not_found") from error


async def make_folder(path: str) -> None:
    """Make a mount point that is a folder."""
    await asyncio.to_thread(Path(path).mkdir, mode=0o750, parents=True, exist_ok=True)


async def make_file(path: str) -> None:
    """Make a mount point that is a file, for a device."""

    def work() -> None:
        Path(path).parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        Path(path).touch(mode=0o600)

    await asyncio.to_thread(work)


async def remove_point(path: str) -> None:
    """Remove an empty mount point. Never what is in a folder: it could be a user's data."""

    def work() -> None:
        with contextlib.suppress(FileNotFoundError):
            point = Path(path)
            if point.is_dir() and not point.is_symlink():
                point.rmdir()
            else:
                point.unlink()

    try:
        await asyncio.to_thread(work)
    except OSError as error:
        raise ConflictError(
            f"mount point {path} cannot be removed: {error.strerror}",
            hint="something wrote into it while nothing was mounted there; look at it by hand",
        ) from error
