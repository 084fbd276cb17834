"""What the kernel says about block devices, read from sysfs."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from drystone_common.errors import DeadlineError

POLL_S: Final = 0.02  # sysfs has no notification for these; a device takes milliseconds
WAIT_S: Final = 10.0  # a device that is not there by then will not come
SYS_BLOCK: Final = Path("/sys/block")
SYSFS_SECTOR: Final = 512  # sysfs counts in these whatever the device's sector is


def text(path: Path) -> str | None:
    """A value, or None when the device is not (or no longer) set up."""
    try:
        # The kernel hands on what firmware and mounts say, which need not be text.
        return path.read_text(errors="replace").strip()
    except OSError:
        return None


def size_bytes(name: str, sys_block: Path = SYS_BLOCK) -> int:
    """Bytes of a device, 0 if it is not set up."""
    found = text(sys_block / name / "size")
    return int(found) * SYSFS_SECTOR if found and found.isdecimal() else 0


def loop_of(backing: Path, sys_block: Path = SYS_BLOCK) -> str | None:
    """The name of the loop device on a file, such as ``loop3``."""
    # A file that is gone from its folder is shown with this mark; the device is still there.
    wanted = {str(backing), f"{backing} (deleted)"}
    for entry in sorted(sys_block.glob("loop*")):
        if text(entry / "loop" / "backing_file") in wanted:
            return entry.name
    return None


def nbd_of(backend: str, sys_block: Path = SYS_BLOCK) -> str | None:
    """The name of the NBD device with a backend identifier, such as ``nbd3``."""
    for entry in sorted(sys_block.glob("nbd*")):
        # ``pid`` exists only while the device is set up.
        if text(entry / "backend") == backend and text(entry / "pid") is not None:
            return entry.name
    return None


def nbd_backends(prefix: str, sys_block: Path = SYS_BLOCK) -> tuple[str, ...]:
    """The identifiers of all NBD devices that begin with ``prefix``."""
    live = (entry for entry in sorted(sys_block.glob("nbd*")) if (entry / "pid").exists())
    found = (text(entry / "backend") for entry in live)
    return tuple(backend for backend in found if backend and backend.startswith(prefix))


def claimed(device: str) -> bool:
    """Whether a file system or another driver holds the device."""
    try:
        descriptor = os.open(device, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        # Anything else (no medium, gone) means that nobody can be using it.
        return error.errno == errno.EBUSY
    os.close(descriptor)
    return False


async def until(condition: Callable[[], bool], what: str, wait_s: float = WAIT_S) -> None:
    """Wait for a condition that has no notification; DeadlineError when it does not come."""
    loop = asyncio.get_running_loop()
    end = loop.time() + wait_s
    while not await asyncio.to_thread(condition):
        if loop.time() >= end:
            raise DeadlineError(f"{what}: still not so after {wait_s:.0f} s")
        await asyncio.sleep(POLL_S)
