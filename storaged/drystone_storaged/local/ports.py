"""Ports for processes on loopback: chosen once, outside of what the kernel gives to connections.

A port of the kernel's own range could be taken by any connection while its owner restarts.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Collection
from typing import Final

from drystone_common.errors import UnavailableError

FIRST: Final = 20_000
LAST: Final = 32_000  # the kernel gives connections 32768 and up by default
HOST: Final = "127.0.0.1"


def is_free(port: int) -> bool:
    """Whether both TCP and UDP can be bound here now."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        probe = socket.socket(socket.AF_INET, kind)
        try:
            # As the daemons bind: a connection that is only timing out is not in the way.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
        except OSError:
            return False
        finally:
            probe.close()
    return True


def pick(count: int, taken: Collection[int]) -> list[int]:
    """Give ports that are free now and not in ``taken``.

    From a random start, so that two clusters made at one time rarely meet.
    """
    span = LAST - FIRST
    start = random.randrange(span)  # noqa: S311 - spreading, not secret
    found: list[int] = []
    for step in range(span):
        port = FIRST + (start + step) % span
        if port not in taken and is_free(port):
            found.append(port)
            if len(found) == count:
                return found
    raise UnavailableError(
        f"there are no {count} free ports from {FIRST} to {LAST}", code="no_free_port"
    )
