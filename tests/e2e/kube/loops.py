"""Loop devices of a dead node. A real machine would have lost them; this one has one kernel.

Only devices that the node's block daemon noted are touched, and only while they still hold what
was noted: the kernel numbers what is put into a device, and that number never comes back.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.e2e.kube.shell import run

NOTE: Final = "loop.json"
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
SYS_BLOCK: Final = Path("/sys/block")


def detach(disk: Path) -> None:
    """Detach the loop devices of a node, by what is on its disk."""
    for name in noted(disk):
        run(["losetup", "--detach", f"/dev/{name}"], check=False)


def noted(disk: Path) -> Iterator[str]:
    """Devices that are still what the node made of them."""
    for note in sorted((disk / "drystone").rglob(NOTE)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            data = json.loads(note.read_text())
            name = str(data["name"])
            sequence = (SYS_BLOCK / name / "diskseq").read_text().strip()
            in_use = (SYS_BLOCK / name / "loop" / "backing_file").exists()
            if in_use and data["content"] == f"{BOOT_ID.read_text().strip()} {sequence}":
                yield name
