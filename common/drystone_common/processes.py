"""What the kernel says of a process that is not a child of ours."""

from __future__ import annotations

from pathlib import Path


def process_state(pid: int) -> str:
    """The kernel's letter for what a process does, such as `T` for stopped; empty: it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
    # The name of the program may hold anything, even ") ".
    return text.rpartition(")")[2].split()[0]


def is_alive(pid: int) -> bool:
    """Whether it still runs: a zombie has ended, only nobody asked how."""
    return process_state(pid) not in ("", "Z")
