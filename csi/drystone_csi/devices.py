"""Block devices and what is on them: probe, format, check, grow."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from drystone_common.errors import (
    ConflictError,
    DataError,
    DeniedError,
    InvalidArgumentError,
)
from drystone_csi.model import FileSystem
from drystone_csi.sizes import EXT4_JOURNAL_SIZE_MIN
from drystone_storaged.attach.command import CommandError, Runner

PROBE_TIMEOUT_S: Final = 30.0
"""A few reads. A volume whose servers change over answers within seconds."""

FORMAT_TIMEOUT_S: Final = 100.0
"""Formatting writes a few MiB a TiB; kubelet gives a stage two minutes, and asks again."""

CHECK_TIMEOUT_S: Final = 100.0  # replaying a journal takes seconds; a full check may take longer
GROW_TIMEOUT_S: Final = 100.0
GROW_STEP: Final = 1 << 20
"""A file system may leave a few blocks at the end of its device; only more is a growth."""

_BLKID_BLANK: Final = 2  # the documented exit code for "nothing found"
_FSCK_FINE: Final = (0, 1)  # clean, or repaired
_ANY_CODE: Final = range(256)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a probe found; ``kind`` such as ``ext4``, or ``table gpt`` for a partition table."""

    kind: str


class Devices:
    """Operations on a device by its path."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def probe(self, device: str) -> Signature | None:
        """Look for any signature; None only if blkid says that there is none.

        blkid failing is not "nothing found": every other exit code is an error, an ambivalent
        result (two signatures) included.
        """
        argv = ("blkid", "-p", "-o", "export", "--", device)
        result = await self._runner.run(argv, timeout_s=PROBE_TIMEOUT_S, codes=(0, _BLKID_BLANK))
        pairs = dict(line.split("=", 1) for line in result.stdout.splitlines() if "=" in line)
        if result.code == _BLKID_BLANK:
            return None
        if "TYPE" in pairs:
            return Signature(pairs["TYPE"])
        return Signature(f"table {pairs.get('PTTYPE', 'unknown')}")

    async def format(self, device: str, fs: FileSystem, size: int, options: Sequence[str]) -> None:
        """Make a file system, replacing what is there, and return when it is durable.

        Discarding first would be for nothing: the volume is thin and was never written, or
        was written only by an attempt before this one.
        """
        if fs is FileSystem.EXT4:
            argv = ["mkfs.ext4", "-q", "-F", "-E", "nodiscard"]
            if size < EXT4_JOURNAL_SIZE_MIN:
                argv += ["-O", "^has_journal"]
        else:
            argv = ["mkfs.xfs", "-q", "-f", "-K"]
        # The tool dies with the driver: one that outlived it could still write when the
        # driver's successor formats again and mounts.
        argv = ["setpriv", "--pdeathsig", "KILL", "--", *argv, *options, "--", device]
        await self._runner.run(argv, timeout_s=FORMAT_TIMEOUT_S)
        await self._runner.run(("sync", "--", device), timeout_s=FORMAT_TIMEOUT_S)

    async def used(self, device: str, found: Signature) -> bool:
        """Whether somebody certainly used what a probe found: it is not ours, or was mounted once.

        False proves nothing: what a crash left half made, or an xfs that was never unmounted in
        order, does not say.
        """
        if found.kind == FileSystem.EXT4:
            told = await self._told(("dumpe2fs", "-h", device), ":", _ANY_CODE)
            last = told.get("Last mount time", "n/a")
            return told.get("Mount count", "0") != "0" or last != "n/a"
        if found.kind == FileSystem.XFS:
            # Made with 0; the first mount that ends in order writes where its log ended.
            told = await self._told(
                ("xfs_db", "-r", "-c", "sb 0", "-c", "p lsn", device), "=", _ANY_CODE
            )
            return told.get("lsn", "0") not in {"0", "null"}
        return True

    async def _told(
        self, argv: Sequence[str], mark: str, codes: Sequence[int] = (0,)
    ) -> dict[str, str]:
        """What a tool says line by line; nothing if it ended with an error that is allowed."""
        result = await self._runner.run(argv, timeout_s=PROBE_TIMEOUT_S, codes=codes)
        pairs = (line.split(mark, 1) for line in result.stdout.splitlines() if mark in line)
        return {key.strip(): value.strip() for key, value in pairs} if not result.code else {}

    async def check(self, device: str, fs: FileSystem) -> None:
        """Repair what can be repaired without a question. The device must not be mounted.

        xfs replays its log at the mount and has nothing to do here.
        """
        if fs is not FileSystem.EXT4:
            return
        argv = ("fsck.ext4", "-p", device)
        result = await self._runner.run(argv, timeout_s=CHECK_TIMEOUT_S, codes=range(16))
        if result.code not in _FSCK_FINE:
            raise DataError(
                f"the file system on {device} needs a repair by hand: {result.stdout[-300:]}",
                code="fsck_failed",
                hint="while the pod waits it is attached and not mounted: in the CSI pod of this "
                f"node run `fsck.ext4 -f {device}`",
            )

    async def size(self, device: str) -> int:
        """Bytes of the device."""
        argv = ("blockdev", "--getsize64", device)
        result = await self._runner.run(argv, timeout_s=PROBE_TIMEOUT_S)
        try:
            return int(result.stdout)
        except ValueError as error:
            raise DataError(f"blockdev said {result.stdout[:40]!r} for {device}") from error

    async def grow_offline(self, device: str, fs: FileSystem, size: int) -> None:
        """Let an unmounted ext4 fill its device of ``size`` bytes; xfs grows only mounted."""
        if fs is not FileSystem.EXT4 or size - await self._ext4_size(device) < GROW_STEP:
            return
        # resize2fs asks for a full check first; the superblock alone says that it is clean.
        check = ("fsck.ext4", "-f", "-p", device)
        await self._runner.run(check, timeout_s=CHECK_TIMEOUT_S, codes=_FSCK_FINE)
        await self._runner.run(("resize2fs", device), timeout_s=GROW_TIMEOUT_S)

    async def _ext4_size(self, device: str) -> int:
        values = await self._told(("dumpe2fs", "-h", device), ":")
        try:
            return int(values["Block count"]) * int(values["Block size"])
        except (KeyError, ValueError) as error:
            raise DataError(f"dumpe2fs told no size of {device}", code="bad_answer") from error

    async def grow_online(self, device: str, fs: str, mountpoint: str) -> None:
        """Let a mounted file system fill its device; nothing happens when it does."""
        if fs == FileSystem.EXT4:
            argv: tuple[str, ...] = ("resize2fs", device)
        elif fs == FileSystem.XFS:
            argv = ("xfs_growfs", "-d", mountpoint)
        else:
            raise InvalidArgumentError(f"file system {fs} cannot be grown by this driver")
        try:
            await self._runner.run(argv, timeout_s=GROW_TIMEOUT_S)
        except CommandError as error:
            if "Permission denied" not in error.message:
                raise
            raise DeniedError(
                f"the kernel does not let this process grow a mounted {fs}: {error.message}",
                code="needs_sys_resource",
                hint="grant CAP_SYS_RESOURCE, or unmount: it grows at the next stage",
            ) from error

    async def number(self, path: str) -> int | None:
        """The device number behind a path; None if there is no block device."""
        try:
            found = await asyncio.to_thread(os.stat, path)
        except FileNotFoundError:
            return None
        return found.st_rdev if stat.S_ISBLK(found.st_mode) else None

    async def require_blank(self, device: str) -> None:
        """Raise unless two probes in a row find nothing."""
        for _ in range(2):
            found = await self.probe(device)
            if found is not None:
                raise ConflictError(
                    f"{device} holds {found.kind}, so it is not formatted",
                    code="not_blank",
                    hint="use the volume with that file system, or wipe it by hand",
                )
