"""Paths of unix sockets that a process of ours is to serve."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Final

from drystone_common.errors import ConflictError, InvalidArgumentError

PATH_BYTES_MAX: Final = 107  # what the kernel's address of a unix socket can hold
CONNECT_S: Final = 1.0  # whoever listens is connected by the kernel, also while he is frozen


def check_socket_path(path: Path) -> Path:
    """Refuse a path that the kernel would refuse with a message that nobody understands."""
    if len(str(path).encode()) > PATH_BYTES_MAX:
        raise InvalidArgumentError(
            f"the path {path} is too long for a socket ({PATH_BYTES_MAX} bytes)",
            code="socket_path_too_long",
            hint="use a state folder with a shorter path",
        )
    return path


def make_room(path: Path) -> str:
    """Remove what a killed process left; refuse to take the place of one that lives, or a file.

    Gives the address to listen on, in gRPC's form.
    """
    address = f"unix://{path.absolute()}"
    try:
        found = os.stat(path, follow_symlinks=False)  # noqa: PTH116 - lstat, no following
    except FileNotFoundError:
        return address
    if not stat.S_ISSOCK(found.st_mode):
        raise ConflictError(
            f"{path} is in the way: it is not a socket", code="socket_in_use", hint="remove it"
        )
    if _is_served(path):
        raise ConflictError(
            f"another process serves {path}", code="socket_in_use", hint="stop it first"
        )
    path.unlink(missing_ok=True)
    return address


def _is_served(path: Path) -> bool:
    probe = socket.socket(socket.AF_UNIX)
    with contextlib.closing(probe):
        probe.settimeout(CONNECT_S)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # it does not say that nobody is there
    return True
