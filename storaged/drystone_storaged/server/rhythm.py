"""When the next status is due. No clock here."""

from __future__ import annotations

from typing import Final

SLOW_PERIODS: Final = 2  # the manager's reports of a slow drive: now, and after these


class Rhythm:
    """One each period, and extra ones in between which do not move it; never two too close.

    The manager drops a drive that was slow in three reports over two periods. So a status is due
    one and two periods after each that tells of a drive that has become slow: by the ordinary
    rhythm the third one could be nearly a period late.
    """

    def __init__(self, period_s: float, apart_s: float) -> None:
        self._period_s = period_s
        self._apart_s = apart_s
        self._due_s = 0.0
        self._told_s = 0.0
        self._slow: list[float] = []  # at most a few: one drive becomes slow once in a period

    def begins(self, now_s: float, *, slow: bool) -> None:
        """A status is made now; ``slow``: because a drive has become that."""
        if now_s >= self._due_s:
            self._due_s = now_s + self._period_s
        self._slow = [due_s for due_s in self._slow if due_s > now_s]
        if slow:
            self._slow += [now_s + n * self._period_s for n in range(1, SLOW_PERIODS + 1)]
        self._told_s = now_s

    def left_s(self, now_s: float) -> float:
        """How long to wait for the next one, where nothing hurries."""
        return max(0.0, min([self._due_s, *self._slow]) - now_s)

    def rest_s(self, now_s: float) -> float:
        """How long it must wait in any case."""
        return max(0.0, self._told_s + self._apart_s - now_s)
