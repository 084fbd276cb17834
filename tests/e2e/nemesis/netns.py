"""Sockets and devices in another network namespace, made by this process without leaving it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from tests.e2e.lib.shell import LabError
from tests.e2e.nemesis.settings import NAMESPACES, namespace

CLONE_NEWNET: Final = 0x40000000  # linux/sched.h; os.setns is not in Python 3.11


def argv_in(group: str, argv: Sequence[str]) -> list[str]:
    """The command line that runs a program in the group's namespace, as the same process.

    Only the network is another: files, /dev/shm and Unix sockets are the machine's.
    """
    return ["nsenter", f"--net={NAMESPACES / namespace(group)}", *argv]


@contextmanager
def entered(group: str) -> Iterator[None]:
    """In the group's network. What is opened inside stays there; only this thread goes."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(NAMESPACES / namespace(group), os.O_RDONLY)
        try:
            _go(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _go(home)
    finally:
        os.close(home)


def _go(handle: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(handle, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise LabError(f"cannot enter a network namespace: {os.strerror(number)}")
