"""Boots User Mode Linux, a kernel that runs as a program, with this machine's files.

The guest's root is the host's, read-only, under a RAM overlay (``first.sh``): it has the checkout
and everything installed without an image. It shares one folder with us, where its output and the
command's exit status appear.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROGRAM: Final = "linux.uml"
MODULES: Final = Path("/usr/lib/uml/modules")  # where Debian's package has them
HERE: Final = Path(__file__).resolve().parent
DISK: Final = "/disk"
"""Where the guest mounts its disk, which takes direct I/O; temporary files go there."""

POLL_S: Final = 0.1  # output is read by people
END_WAIT_S: Final = 30.0  # the host frees some GB of memory
GUEST_EARLIER_S: Final = 20.0
"""The guest gives up this much before us, so that its command's last words are read."""
SHOWN_LINES: Final = 40  # a panic with its trace
PASSED_ON: Final = ("PATH", "HOME", "LANG", "PYTHONPATH", "CI")


class MachineError(Exception):
    """The machine did not start, or ended without saying how the command did."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is booted. ``state`` is a new folder, which holds the disk too (sparse)."""

    state: Path
    checkout: Path
    command: tuple[str, ...]
    limit_s: float
    memory_mib: int
    disk_gib: int

    @property
    def disk(self) -> Path:
        """File of the disk."""
        return self.state / "disk"


def arguments(plan: Plan) -> list[str]:
    """The kernel's command line, its program first."""
    return [
        PROGRAM,
        f"mem={plan.memory_mib}M",
        # The host's files, which the guest cannot change whatever it does.
        "rootfstype=hostfs", "rootflags=/", "ro",
        f"init={plan.state}/init",
        f"ubd0={plan.disk}",
        f"uml_dir={plan.state}/", "umid=machine",
        # No terminals; messages of the kernel go to our file.
        "con=null", "con0=null,fd:1", "ssl=null",
        # End on a panic and on a reboot, instead of waiting or starting again.
        "panic=-1", "noreboot",
    ]  # fmt: skip


def init_script(plan: Plan) -> str:
    """The first process, with what it must know: a kernel argument takes no spaces."""
    told = {
        "STATE": str(plan.state),
        "MODULES": str(MODULES),
        "HERE": str(HERE),
        "LIMIT": f"{max(1.0, plan.limit_s - GUEST_EARLIER_S):.0f}",
    }
    lines = [f"export {name}={shlex.quote(value)}" for name, value in told.items()]
    return "\n".join(["#!/bin/sh", *lines, f"exec {shlex.quote(str(HERE / 'first.sh'))}", ""])


def command_script(plan: Plan, environment: Mapping[str, str]) -> str:
    """What the guest runs: the command, in the checkout, with little of our environment."""
    told = {name: environment[name] for name in PASSED_ON if name in environment}
    told["TMPDIR"] = DISK
    lines = [f"export {name}={shlex.quote(value)}" for name, value in told.items()]
    place = f"cd {shlex.quote(str(plan.checkout))} || exit 126"
    return "\n".join([*lines, place, f"exec {shlex.join(plan.command)}", ""])


def prepare(plan: Plan, environment: Mapping[str, str]) -> None:
    """Write the state folder."""
    if any(character.isspace() for character in str(plan.state)):
        raise MachineError(f"a kernel's arguments hold no spaces: {plan.state}; set TMPDIR")
    init = plan.state / "init"
    init.write_text(init_script(plan))
    init.chmod(0o700)
    (plan.state / "command").write_text(command_script(plan, environment))
    (plan.state / "out").touch()
    with plan.disk.open("wb") as disk:
        disk.truncate(plan.disk_gib << 30)


def run(plan: Plan, show: Callable[[bytes], object] | None = None) -> int:
    """Boot, pass the output on, give the command's exit status; nothing runs afterwards."""
    show = show or _to_stdout
    with (plan.state / "kernel").open("wb") as messages:
        # Its memory is a file in /dev/shm unless TMPDIR says otherwise: not on a disk.
        process = subprocess.Popen(
            arguments(plan), stdin=subprocess.DEVNULL, stdout=messages, stderr=subprocess.STDOUT,
            start_new_session=True, env={"PATH": os.environ.get("PATH", os.defpath)},
        )  # fmt: skip
    try:
        return _follow(plan, process, show)
    finally:
        _end(process)


def _follow(plan: Plan, process: subprocess.Popen[bytes], show: Callable[[bytes], object]) -> int:
    ends = time.monotonic() + plan.limit_s
    with (plan.state / "out").open("rb") as output:
        while True:
            # Looked at before the output is read: nothing is written after either.
            status, ended = read_status(plan.state / "status"), process.poll() is not None
            show(output.read())
            if status is not None:
                return status
            if ended:
                raise MachineError(f"the machine ended without a status:\n{last_words(plan)}")
            if time.monotonic() > ends:
                raise MachineError(f"not done in {plan.limit_s:.0f} s:\n{last_words(plan)}")
            time.sleep(POLL_S)


def read_status(path: Path) -> int | None:
    """The exit status that the guest left, if it did."""
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return None


def last_words(plan: Plan) -> str:
    """The end of the kernel's messages."""
    text = (plan.state / "kernel").read_text(errors="replace")
    return "\n".join(text.splitlines()[-SHOWN_LINES:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """The kernel's program has a process on the host for each of the guest: all are one group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(END_WAIT_S)
    ends = time.monotonic() + END_WAIT_S
    while _group_lives(process.pid):
        if time.monotonic() > ends:
            raise MachineError(f"processes of group {process.pid} do not end")
        time.sleep(POLL_S)


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _to_stdout(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
