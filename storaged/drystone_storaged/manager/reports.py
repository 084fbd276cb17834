"""How often one complaint is looked at: many clients see the same dead drive at once."""

from __future__ import annotations

from typing import Final

PERIOD_S: Final = 0.1  # one look answers all who complain meanwhile
KEYS_MAX: Final = 4_096  # drives x kinds in memory; callers choose the numbers


class ReportLimiter:
    """Admits one report per drive and kind and period."""

    def __init__(self) -> None:
        self._last: dict[tuple[int, int], float] = {}

    def admit(self, key: tuple[int, int], now_s: float) -> bool:
        """Whether this report is to be looked at."""
        last = self._last.get(key)
        if last is not None and now_s - last < PERIOD_S:
            return False
        if len(self._last) >= KEYS_MAX:
            self._last.clear()
        self._last[key] = now_s
        return True
