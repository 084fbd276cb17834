"""Child processes: start in a session of their own, recognise, signal, never hit a stranger.

A process is ours if its pid file names it and its command line names its settings file, which no
other cluster's process does. A pid that was reused by something else is therefore left alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from drystone_common.errors import DeadlineError, UnavailableError
from drystone_common.files import atomic_write_text
from drystone_common.processes import process_state
from drystone_storaged.local.etcd import etcd_program
from drystone_storaged.local.layout import Layout

Kind = Literal["etcd", "manager", "server", "beacon", "block", "csi"]

POLL_S: Final = 0.02
EXEC_S: Final = 5.0  # the kernel needs microseconds to load a program, a busy machine more
LOG_TAIL_BYTES: Final = 65_536
LOG_LINES: Final = 200  # of a log's end: a server that has just started wrote some ten
LOG_BYTES_MAX: Final = 16 << 20
"""A log larger than this is turned over once at a start: one old generation is kept."""

ERROR_PREFIX: Final = "error: "
HINT_PREFIX: Final = "hint: "
NOT_ADMITTED: Final = "the join token is not valid"
"""What a manager tells a node that it does not know: new, or forgotten."""


@dataclass(frozen=True, slots=True)
class Process:
    """One process of the cluster. ``name`` is that of its pid file and log."""

    name: str
    kind: Kind
    node: str


class Processes:
    """The processes of one cluster's folder."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def by_files(self) -> list[Process]:
        """Processes that may run, by their pid files: for a folder whose list is damaged."""
        kinds: dict[str, Kind] = {
            "etcd": "etcd",
            "manager": "manager",
            "node": "server",
            "block": "block",
            "csi": "csi",
        }
        names = sorted(path.stem for path in self._layout.pid("*").parent.glob("*.pid"))
        found = ((name, kinds.get(name.partition("-")[0])) for name in names)
        return [_of_file(name, kind) for name, kind in found if kind]

    def pid(self, process: Process) -> int | None:
        """The pid of a process that runs (or is stopped by a signal); None if there is none."""
        try:
            number = int(self._layout.pid(process.name).read_text(encoding="ascii").strip())
        except (OSError, ValueError):
            return None
        return number if self._is_ours(number, process) else None

    def state(self, process: Process) -> str:
        """`running`, `frozen` (by SIGSTOP) or `stopped`."""
        pid = self.pid(process)
        if pid is None:
            return "stopped"
        return "frozen" if process_state(pid) in ("T", "t") else "running"

    def start(self, process: Process) -> bool:
        """Start a process unless it runs; True if it was started."""
        if self.pid(process) is not None:
            return False
        log = self._layout.log(process.name)
        _turn_over(log)
        settings = str(self._layout.config(process.name))
        if process.kind == "etcd":
            argv = [etcd_program(), "--config-file", settings]
        else:
            argv = [sys.executable, "-m", "drystone_cli", process.kind, "--config", settings]
        with log.open("ab") as out:
            # A session of its own: a Ctrl-C or the end of the caller's terminal is not for it.
            child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                cwd="/",
            )
        atomic_write_text(self._layout.pid(process.name), f"{child.pid}\n")
        self._wait_recognised(process, child)
        # Popen would warn that nobody waits for it; that is what a daemon is.
        child.returncode = 0
        return True

    def _wait_recognised(self, process: Process, child: subprocess.Popen[bytes]) -> None:
        """For a moment after its start a program has no command line yet."""
        end = time.monotonic() + EXEC_S
        while self.pid(process) is None and child.poll() is None and time.monotonic() < end:
            time.sleep(POLL_S)

    def signal(self, process: Process, number: signal.Signals) -> bool:
        """Send a signal; False if there is nothing to send it to."""
        pid = self.pid(process)
        if pid is None:
            return False
        try:
            # A pidfd cannot come to mean another process between the look and the signal.
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            if not self._is_ours(pid, process):
                return False
            signal.pidfd_send_signal(descriptor, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
        return True

    def wait_gone(self, process: Process, deadline_s: float) -> bool:
        """Wait until a process is gone; False if it is still there."""
        end = time.monotonic() + deadline_s
        while self.pid(process) is not None:
            if time.monotonic() > end:
                return False
            time.sleep(POLL_S)
        self._layout.pid(process.name).unlink(missing_ok=True)
        return True

    def stop(self, process: Process, *, grace_s: float = 15.0, kill_s: float = 10.0) -> bool:
        """SIGTERM, and SIGKILL after the grace; True if it ran. A frozen one is woken first."""
        if not self.signal(process, signal.SIGTERM):
            self._layout.pid(process.name).unlink(missing_ok=True)
            return False
        self.signal(process, signal.SIGCONT)
        if not self.wait_gone(process, grace_s):
            self.kill(process, kill_s)
        return True

    def kill(self, process: Process, deadline_s: float = 10.0) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(process, signal.SIGKILL)
        if not self.wait_gone(process, deadline_s):
            raise DeadlineError(
                f"{process.name} does not end, not even by SIGKILL",
                code="process_stuck",
                hint="it waits inside the kernel; see `dmesg` and whatever device it uses",
            )

    def is_outdated(self, process: Process) -> bool:
        """Whether its settings were written after it was started."""
        try:
            started = self._layout.pid(process.name).stat().st_mtime_ns
            return self._layout.config(process.name).stat().st_mtime_ns > started
        except FileNotFoundError:
            return False

    def log_tail(self, process: Process, lines: int = 3) -> str:
        """The last lines of a log, for an error message."""
        try:
            with self._layout.log(process.name).open("rb") as stream:
                stream.seek(0, os.SEEK_END)
                stream.seek(max(0, stream.tell() - LOG_TAIL_BYTES))
                text = stream.read().decode(errors="replace")
        except OSError:
            return ""
        return "\n".join(text.strip().splitlines()[-lines:])

    def refused_drives(self, process: Process) -> list[str]:
        """Why a server does not serve drives of its own, by the end of its log."""
        reasons: dict[str, str] = {}
        for line in self.log_tail(process, LOG_LINES).splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            what = event.get("event") if isinstance(event, dict) else None
            if what == "registered":
                # What an earlier start said counts no more.
                reasons.clear()
            elif what in ("drive_refused", "drive_failed"):
                reasons[str(event.get("path"))] = str(event.get("reason"))
            elif what == "drive_open":
                reasons.pop(str(event.get("path")), None)
        return sorted(reasons.values())

    def died(self, process: Process) -> UnavailableError:
        """The error for a process that ended when it should run."""
        tail = self.log_tail(process)
        # What ended it is the last thing that it says, in the form of every program of ours.
        errors = [line for line in tail.splitlines() if line.startswith(ERROR_PREFIX)]
        said = errors[-1].removeprefix(ERROR_PREFIX) if errors else tail
        hints = [line for line in tail.splitlines() if line.startswith(HINT_PREFIX)]
        hint = f"see {self._layout.log(process.name)}"
        if errors and hints:
            hint = f"{hints[-1].removeprefix(HINT_PREFIX)} ({hint})"
        if NOT_ADMITTED in said:
            hint = (
                f"was {process.node} forgotten? To let it come in as a new node, remove "
                f"{self._layout.state(process.node)} and its drive files, then `drystone local up`"
            )
        return UnavailableError(
            f"{process.name} ended at once: {said or 'it said nothing'}",
            code="process_died",
            hint=hint,
        )

    def _is_ours(self, pid: int, process: Process) -> bool:
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        # A zombie has no command line: what is dead does not count as running.
        return str(self._layout.config(process.name)).encode() in command


def _of_file(name: str, kind: Kind) -> Process:
    if name.endswith("-beacon"):
        return Process(name, "beacon", name.removesuffix("-beacon"))
    return Process(name, kind, name.removesuffix("-server"))


def _turn_over(log: Path) -> None:
    try:
        if log.stat().st_size > LOG_BYTES_MAX:
            log.replace(log.with_suffix(".log.1"))
    except FileNotFoundError:
        return
