"""What a manager, or whoever serves a socket, answers a look with."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

from drystone_common.errors import DeadlineError, NotFoundError
from drystone_storaged.agent.rest import Rest

CONNECT_S: Final = 1.0


def healthy(rest: Rest) -> bool:
    """Whether a manager answers and can work."""
    try:
        rest.get("/v1/health")
    except DeadlineError:
        return False  # a busy machine; how long that may go on is for the caller to say
    return True


def in_sync(rest: Rest) -> bool:
    """Whether every copy is."""
    pgs = rest.get("/v1/status")["pgs"]
    return bool(pgs["in_sync"] == pgs["total"])


def connected(rest: Rest, node: str) -> bool:
    """Whether the manager has a session with a node."""
    try:
        return bool(rest.get(f"/v1/nodes/{node}")["state"] == "up")
    except NotFoundError:
        return False


def listens(path: Path) -> bool:
    """Whether somebody serves a unix socket."""
    probe = socket.socket(socket.AF_UNIX)
    try:
        probe.settimeout(CONNECT_S)
        probe.connect(str(path))
    except OSError:
        return False
    finally:
        probe.close()
    return True
