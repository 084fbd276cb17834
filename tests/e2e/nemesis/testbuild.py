"""Servers whose drives fail on order: built with `fault-hooks`, in a folder of their own."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.e2e.nemesis.settings import ROOT

FOLDER: Final = ROOT / ".tools" / "nemesis"
VARIABLE: Final = "DRYSTONE_NEMESIS_NATIVE"  # a folder with such a build elsewhere


def folder() -> Path:
    """Where the build is, or would be."""
    return Path(os.environ.get(VARIABLE, FOLDER))


def there() -> bool:
    """Whether there is one."""
    return any(folder().glob("drystone_native/_native*.so"))


def missing(laps: Iterable[str]) -> str:
    """What to do where there is none."""
    return (
        f"{folder()} has no servers whose drives fail on order: scripts/setup_nemesis.sh builds "
        f"them; without them leave out {', '.join(laps)}"
    )


def environment() -> dict[str, str]:
    """Of a server: this build before every other."""
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(folder()), *([before] if before else [])])}
