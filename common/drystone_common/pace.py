"""How often something may be said that others can cause as often as they like."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Final

AGAIN_S: Final = 60.0
"""Between two lines about one thing: a flood of refused messages must not fill a disk with log."""

KEYS_MAX: Final = 1024
"""Kinds of things to say, of which a process has some dozen; callers choose some of the words."""


class Pace:
    """The first time at once, then at most once a minute with the number since."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._said: dict[Hashable, tuple[float, int]] = {}
        """Of each kind when it was said last, and how many there had been by then."""

    def due(self, key: Hashable, total: int) -> int:
        """How many of ``total`` to tell of now; 0 = nothing new, or it is too early.

        ``total`` counts from any start; where it fell, whoever counts began anew.
        """
        now = self._monotonic()
        at, told = self._said.get(key, (float("-inf"), 0))
        if total < told:
            told = 0
        if total <= told or now - at < AGAIN_S:
            return 0
        if key not in self._said and len(self._said) >= KEYS_MAX:
            return 0
        self._said[key] = (now, total)
        return total - told
