"""Votes of silence, pure: which nodes does a majority of the voters not hear (§4.5)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

REPORT_TTL_S: Final = 3.0  # reports repeat each second; an older one says nothing about now
PROMISE_WAIT_S: Final = 1.5 * 1.05  # the read lease, plus 5 % for clocks that run apart


def majority(voters: Collection[str]) -> int:
    """Votes that decide: more than half of the expected voters."""
    return len(voters) // 2 + 1


class SilenceTracker:
    """Latest report of each voter."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[float, frozenset[str]]] = {}

    def report(self, voter: str, silent: Collection[str], now_s: float) -> None:
        """A voter's complete list; an empty one withdraws."""
        self._reports[voter] = (now_s, frozenset(silent) - {voter})

    def suspects(self, voters: Collection[str], now_s: float) -> list[str]:
        """Nodes that a majority of the voters does not hear."""
        counts: dict[str, int] = {}
        for voter, (at_s, silent) in self._reports.items():
            if voter in voters and now_s - at_s <= REPORT_TTL_S:
                for node in silent:
                    counts[node] = counts.get(node, 0) + 1
        return sorted(node for node, votes in counts.items() if votes >= majority(voters))
