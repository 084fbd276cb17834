"""How long a process waits before it asks the next manager for the session or the map."""

from __future__ import annotations

import random
from typing import Final

MIN_S: Final = 0.05
MAX_S: Final = 1.0

VOTER_MAX_S: Final = 0.2
"""Of who votes: a manager that was just elected can drop nobody before a majority has found it,
and the lease's wait begins only then. Together with the election that must stay below 5 s, so
asking is worth more here than in processes that need the manager for nothing urgent."""


class Pauses:
    """Doubling up to the longest, after each *round*: one of several managers leads or soon will.

    To wait after each one would be to wait several times for the one that leads.
    """

    def __init__(self, managers: int, longest_s: float = MAX_S) -> None:
        self._managers = max(1, managers)
        self._longest_s = longest_s
        self._next_s = min(MIN_S, longest_s)
        self._asked = 0

    def reset(self) -> None:
        """One answered: begin anew."""
        self._next_s = min(MIN_S, self._longest_s)
        self._asked = 0

    def next_s(self) -> float:
        """The pause before the next one is asked."""
        self._asked += 1
        pause_s = MIN_S
        if self._asked % self._managers == 0:
            pause_s = self._next_s
            self._next_s = min(pause_s * 2, self._longest_s)
        return spread(pause_s)


def spread(seconds: float) -> float:
    """About as long: not all processes of a cluster shall ask at the same moment."""
    return seconds * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
