"""Waiting for a cluster to become what it should be, and saying why it is not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from drystone_common.errors import (
    DataError,
    DeadlineError,
    DrystoneError,
    UnavailableError,
)
from drystone_storaged.agent.rest import Rest
from drystone_storaged.local.members import Members
from drystone_storaged.local.processes import Process, Processes

POLL_S: Final = 0.1
START_S: Final = 60.0  # until a process answers; on a busy machine Python alone takes seconds
QUIET_S: Final = 120.0
"""How long nothing may get better before the wait is given up: a resync takes as long as it
takes, but it moves."""

REFUSED_S: Final = 10.0
"""The same when a server says that a drive of its own cannot be served: it says so at once."""

Notify = Callable[[str], None]


class Waiter:
    """Waits on conditions while the processes that must bring them about are alive."""

    def __init__(self, processes: Processes, watched: list[Process], notify: Notify) -> None:
        self._processes = processes
        self._watched = watched
        self._notify = notify

    def until(self, what: str, done: Callable[[], bool], deadline_s: float = START_S) -> None:
        """Wait for a condition; a watched process that dies ends the wait with its last words."""
        end = time.monotonic() + deadline_s
        last: DrystoneError | None = None
        while True:
            try:
                if done():
                    return
                last = None
            except UnavailableError as error:
                last = error
            self.check_alive()
            if time.monotonic() > end:
                why = f": {last.message}" if last else ""
                raise DeadlineError(
                    f"{what} after {deadline_s:.0f} s{why}",
                    code="not_healthy",
                    hint="see `drystone local status` and the logs that it names, then repeat",
                )
            time.sleep(POLL_S)

    def check_alive(self) -> None:
        """Raise if a watched process is gone."""
        for process in self._watched:
            if self._processes.pid(process) is None:
                raise self._processes.died(process)

    def until_healthy(self, rest: Rest, members: Members) -> dict[str, Any]:
        """Wait until every node, drive and placement group is as it should be."""
        best: tuple[int, int] | None = None
        quiet_since = time.monotonic()
        said = ""
        while True:
            status = rest.get("/v1/status")
            missing = problems(status, members)
            if not missing:
                return status
            self.check_alive()
            progress = (len(missing), int(status["resync"]["bytes_left"]))
            now = time.monotonic()
            if best is None or progress < best:
                best, quiet_since = progress, now
            if "; ".join(missing) != said:
                said = "; ".join(missing)
                self._notify(f"waiting: {said}")
            if now - quiet_since > REFUSED_S:
                self.check_drives()
            if now - quiet_since > QUIET_S:
                raise DeadlineError(
                    f"the cluster does not become healthy: {said}",
                    code="not_healthy",
                    hint="see `drystone status` and the logs below the folder's log/",
                )
            time.sleep(POLL_S)

    def until_drives(self, up: Callable[[], int], wanted: int) -> None:
        """Wait until so many drives are up; a server that refuses one of its own ends the wait."""
        started = time.monotonic()

        def all_up() -> bool:
            if up() >= wanted:
                return True
            if time.monotonic() - started > REFUSED_S:
                self.check_drives()
            return False

        self.until("not every drive is up", all_up)

    def check_drives(self) -> None:
        """Raise if a server says that a drive of its own cannot be served."""
        reasons = [
            f"{process.node}: {reason}"
            for process in self._watched
            if process.kind == "server"
            for reason in self._processes.refused_drives(process)
        ]
        if reasons:
            raise DataError(
                "; ".join(reasons),
                code="drive_refused",
                hint="everything else runs; the server tries again by itself once that is cured",
            )


def problems(status: dict[str, Any], members: Members) -> list[str]:
    """What keeps the cluster from being healthy, for people."""
    found = []
    up = {node["name"] for node in status["nodes"] if node["state"] == "up"}
    names = [*(s.name for s in members.servers), *(c.name for c in members.consumers)]
    missing = [name for name in names if name not in up]
    if missing:
        found.append(f"{', '.join(missing)} not connected")
    # None: its server was started by an older program and has the beacon inside.
    deaf = {n["name"] for n in status["nodes"] if n.get("beacon_connected") is False}
    alone = [server.name for server in members.servers if server.name in deaf]
    if alone:
        found.append(f"beacon of {', '.join(alone)} not connected")
    drives = sum(1 for drive in status["drives"] if drive["state"] == "up")
    if drives < members.drive_count():
        found.append(f"{drives} of {members.drive_count()} drives are up")
    pgs = status["pgs"]
    if pgs["in_sync"] < pgs["total"]:
        found.append(f"{pgs['in_sync']} of {pgs['total']} placement groups in sync")
    return found
