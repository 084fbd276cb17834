"""Tools that tell of disks that are not there: what lsblk and blkid say, in the test's hands."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

from drystone_storaged.attach.command import CommandError, Completed

TIB = 1 << 40


def disk(name: str, **more: Any) -> dict[str, Any]:
    """One disk as lsblk prints it."""
    return {
        "name": name, "kname": name, "path": f"/dev/{name}", "maj:min": "8:0", "size": TIB,
        "type": "disk", "ro": False, "rm": False, "rota": False, "tran": "sata",
        "model": "QX500", "serial": f"S-{name}", "wwn": None, "mountpoints": [None], **more,
    }  # fmt: skip


def lsblk(*disks: dict[str, Any]) -> str:
    return json.dumps({"blockdevices": list(disks)})


class FakeRunner:
    """Answers for lsblk and blkid; anything else is not installed."""

    def __init__(self) -> None:
        self.disks: list[dict[str, Any]] = []
        self.signatures: dict[str, str | list[str]] = {}
        self.broken: set[str] = set()
        self.calls: list[tuple[str, ...]] = []

    async def run(
        self, argv: Sequence[str], *, timeout_s: float, codes: Sequence[int] = (0,)
    ) -> Completed:
        self.calls.append(tuple(argv))
        await asyncio.sleep(0)
        if argv[0] in self.broken or argv[0] not in ("lsblk", "blkid"):
            raise CommandError(f"{argv[0]} cannot be started", code="command_missing")
        if argv[0] == "lsblk":
            wanted = argv[argv.index("--") + 1] if "--" in argv else None
            return Completed(0, lsblk(*(d for d in self.disks if wanted in (None, d["path"]))), "")
        said = self.signatures.get(argv[-1], "")
        text = said if isinstance(said, str) else said.pop(0)
        return Completed(0 if text else 2, text, "")
