"""Programs that a lab runs to their end, and those that it starts and remembers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.e2e.lib.procs import is_running
from tests.e2e.lib.waits import wait_for

RUN_S: Final = 60.0  # of what is quick on an idle machine; builds say their own
DEAD_S: Final = 20.0  # a killed process that is still there is stuck in the kernel
LAST_CHARS: Final = 1500


class LabError(Exception):
    """The lab cannot do it; the message says why and what to do."""


def run(
    argv: Sequence[str | Path],
    *,
    timeout_s: float = RUN_S,
    check: bool = True,
    text: str | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program; gives its output. A failure is LabError with its last words."""
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words, input=text, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True,
            text=True, timeout=timeout_s, check=False,
        )  # fmt: skip
    except FileNotFoundError as error:
        raise LabError(f"{words[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(words)[:200]} did not end in {timeout_s:.0f} s") from error
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip())[-LAST_CHARS:]
        raise LabError(f"{' '.join(words)[:300]} ended with {done.returncode}: {said}")
    return done.stdout


def need(*programs: str, how: str) -> None:
    """Refuse to begin where something is missing; `how` says what installs it."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        raise LabError(f"not installed: {', '.join(missing)}; {how}")


class Steps:
    """Progress, for people: what was done and when."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def say(self, text: str) -> None:
        """One line with the seconds since the start."""
        print(f"{self.elapsed_s:6.1f} s  {text}", file=sys.stderr, flush=True)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._began


class Started:
    """Processes that were started, by name, in files: `down` is another run of the program.

    Each is remembered with its start time, so that a later process with the same id is never
    taken for it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self,
        name: str,
        argv: Sequence[str],
        log: Path,
        *,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> int:
        """Start a process in a session of its own; `env` is added to ours."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True, cwd=cwd, env={**os.environ, **(env or {})},
            )  # fmt: skip
        self._children[name] = process
        self.remember(name, process.pid)
        return process.pid

    def remember(self, name: str, pid: int) -> None:
        """Keep what was started."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / name).write_text(f"{pid} {_start_time(pid)}")

    def pid(self, name: str) -> int | None:
        """Its id; None when it is gone."""
        try:
            pid, began = (self._folder / name).read_text().split()
        except (FileNotFoundError, ValueError):
            return None
        return int(pid) if _start_time(int(pid)) == began and is_running(int(pid)) else None

    def names(self) -> list[str]:
        """Everything that was started, dead or alive."""
        return sorted(path.name for path in self._folder.iterdir()) if self._folder.exists() else []

    def signal(self, name: str, number: int) -> bool:
        """Send it a signal; False when it is gone. No other process ever gets it."""
        pid = self.pid(name)
        if pid is None:
            return False
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            # Asked again: between question and handle the id may have gone to another process.
            if self.pid(name) != pid:
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True

    def kill(self, name: str) -> None:
        """End it for certain."""
        self.signal(name, signal.SIGKILL)

    def wait_gone(self, name: str) -> None:
        """Wait until it is dead, and forget it."""
        wait_for(lambda: self.pid(name) is None, f"{name} to die", DEAD_S)
        child = self._children.pop(name, None)
        if child is not None:
            child.wait(DEAD_S)
        (self._folder / name).unlink(missing_ok=True)


def _start_time(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return "gone"
    return text.rsplit(")", 1)[1].split()[19]
