"""When the next status is due. No clock here."""

from __future__ import annotations


class Rhythm:
    """One each period, and extra ones in between which do not move it; never two too close.

    A status that tells first that a drive is slow begins the period anew: the manager needs reports
    of a whole number of periods from it, and the last of them must not come almost a period later.
    """

    def __init__(self, period_s: float, apart_s: float) -> None:
        self._period_s = period_s
        self._apart_s = apart_s
        self._due_s = 0.0
        self._told_s = 0.0

    def begins(self, now_s: float, *, slow: bool) -> None:
        """A status is made now; ``slow``: because a drive has become that."""
        if slow or now_s >= self._due_s:
            self._due_s = now_s + self._period_s
        self._told_s = now_s

    def left_s(self, now_s: float) -> float:
        """How long to wait for the next one, where nothing hurries."""
        return max(0.0, self._due_s - now_s)

    def rest_s(self, now_s: float) -> float:
        """How long it must wait in any case."""
        return max(0.0, self._told_s + self._apart_s - now_s)
