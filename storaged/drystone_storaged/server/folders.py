"""Files that count as devices, and where paths really lead: on file systems that may hang."""

from __future__ import annotations

import asyncio
import itertools
import os
import stat
from collections.abc import Iterator, Sequence
from typing import Final

from drystone_common.logs import get_logger
from drystone_storaged.server.hanging import LOOK_S, Looks
from drystone_storaged.server.lsblk import ID_MAX, Disk

FILES_MAX: Final = 10_000  # entries of a folder that are looked at: it is for a few disk files
SUFFIX: Final = ".img"
SILENT: Final = f"its folder did not answer within {LOOK_S:.0f} s"

_log = get_logger(__name__)


class Folders:
    """The files of the folders that the settings name; one that hangs holds nothing up.

    Of such a folder the list of before stands: nobody knows that a file is gone.
    """

    def __init__(self, folders: Sequence[str]) -> None:
        self._folders = tuple(folders)
        self._looks = Looks()
        self._listed: dict[str, tuple[Disk, ...]] = {}
        self._real: dict[str, str] = {}
        self._said: dict[str, str] = {}
        self._silent: set[str] = set()

    async def files(self) -> list[Disk]:
        """Every one, folder by folder."""
        found = await asyncio.gather(*(self._files_of(folder) for folder in self._folders))
        return [disk for disks in found for disk in disks]

    def is_silent(self, disk: Disk) -> bool:
        """Whether this file is only remembered: to look at it would hang as well."""
        return any(disk in self._listed.get(f, ()) for f in self._folders if f in self._silent)

    @property
    def silent(self) -> tuple[str, ...]:
        """Folders and paths that did not answer the last look at them."""
        return tuple(sorted(self._silent))

    async def real(self, path: str) -> str:
        """Where a path leads; where that hangs what was known before, or the path as it is."""
        try:
            self._real[path] = await self._looks.at(path, lambda: os.path.realpath(path))
        except TimeoutError:
            self._hangs(path)
        else:
            self._silent.discard(path)
        return self._real.get(path, path)

    async def _files_of(self, folder: str) -> tuple[Disk, ...]:
        # Told apart from a drive's path of the same name: another question is asked there.
        try:
            disks = await self._looks.at(f"{folder}/", lambda: tuple(_listed(folder)))
        except TimeoutError:
            self._hangs(folder)
            return self._listed.get(folder, ())
        except OSError as error:
            self._cannot(folder, f"{folder}: {error.strerror}")
            disks = ()
        else:
            self._said.pop(folder, None)
        self._silent.discard(folder)
        self._listed[folder] = disks
        return disks

    def _hangs(self, path: str) -> None:
        if path not in self._silent:
            self._silent.add(path)
            _log.warning("device_path_silent", path=path, waited_s=LOOK_S)

    def _cannot(self, folder: str, reason: str) -> None:
        if self._said.get(folder) != reason:
            self._said[folder] = reason
            _log.warning("devices_not_seen", part=folder, reason=reason)


def _listed(folder: str) -> Iterator[Disk]:
    real = os.path.realpath(folder)
    with os.scandir(real) as entries:
        names = [e.name for e in itertools.islice(entries, FILES_MAX)]
    for name in sorted(names):
        disk = _file(f"{real}/{name}") if name.endswith(SUFFIX) else None
        if disk is not None:
            yield disk


def _file(path: str) -> Disk | None:
    """A regular file as a device; None for anything else, or a path that cannot be an id."""
    device = f"file:{path}"
    plain = device.isascii() and device.isprintable() and " " not in device
    try:
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode) or not plain or len(device) > ID_MAX:
        return None
    where = f"{found.st_dev}:{found.st_ino}"
    return Disk(device, path, path, "", found.st_size, "file", sequence=where)
