"""Programs that the lab runs to their end, and those that it starts and remembers."""

from __future__ import annotations

from tests.e2e.lib import shell
from tests.e2e.lib.shell import Started, Steps, run

__all__ = ["Started", "Steps", "need", "run"]


def need(*programs: str) -> None:
    """Refuse to begin where something is missing."""
    shell.need(*programs, how="'make kube-up' as root installs them")
