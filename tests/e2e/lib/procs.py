"""What the kernel says of processes: CPU time, memory, placement."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")


def cpu_s(pids: Iterable[int]) -> float:
    """User and system time of these processes, all threads, in seconds."""
    return sum(_cpu_s(pid) for pid in pids)


def _cpu_s(pid: int) -> float:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return 0.0
    fields = text.rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


def rss_bytes(pid: int) -> int:
    """Resident memory."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def threads(pid: int) -> list[int]:
    """Thread ids of a process; none when it is gone."""
    try:
        return [int(path.name) for path in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        return []


def pin(pids: Iterable[int], cpus: set[int]) -> None:
    """Let every thread of these processes run on these CPUs only; later threads inherit it."""
    for pid in pids:
        for thread in threads(pid):
            try:
                os.sched_setaffinity(thread, cpus)
            except ProcessLookupError:
                continue


def is_running(pid: int) -> bool:
    """Whether it exists and is no zombie."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return text.rsplit(")", 1)[1].split()[0] != "Z"


def children(pid: int) -> list[int]:
    """Direct children of all threads of a process."""
    found = []
    for thread in threads(pid):
        try:
            text = Path(f"/proc/{pid}/task/{thread}/children").read_text()
        except FileNotFoundError:
            continue
        found += [int(word) for word in text.split()]
    return found


def naming(folder: Path) -> list[int]:
    """Processes whose command line names something below a folder, zombies apart."""
    wanted = f"{folder}/".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        pid = int(path.parent.name)
        try:
            named = wanted in path.read_bytes()
        except OSError:
            continue
        if named and pid != os.getpid() and is_running(pid):
            found.append(pid)
    return found
