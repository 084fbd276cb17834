"""Which quorum reads may found the read lease of this process.

A manager that finds the process before this one dead drops its drives without waiting for a
lease. So this process must take none from a map that was read before its own drives were known:
the first read that counts begins after each of them was acknowledged as ready. Afterwards every
drive that is opened again voids the reads that began before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from drystone_storaged.agent.mapfeed import monotonic_us

SETTLE_US: Final = 30_000_000
"""One drive with an endless replay must not keep the others from answering reads for ever; it is
not served itself by then, and its own acknowledgement voids older reads."""

UNKNOWN: Final = -1
"""In the place of the drives that the manager wants and has not named yet."""

Apply = Callable[[bytes, int | None], None]


class LeaseGate:
    """Stands between the map feed and the native core."""

    def __init__(
        self,
        apply: Apply,
        slots: Iterable[int],
        want_read: Callable[[], None],
        clock_us: Callable[[], int] = monotonic_us,
    ) -> None:
        self._apply = apply
        self._want_read = want_read
        self._clock_us = clock_us
        self._open = dict.fromkeys(slots, clock_us())
        self._acknowledged = 0

    def hold(self, slot: int) -> None:
        """A drive is about to be opened in this slot."""
        self._open[slot] = self._clock_us()

    def ready(self, slot: int) -> None:
        """READY of this drive was acknowledged just now."""
        self._acknowledged = self._clock_us()
        self._open.pop(slot, None)
        # Nobody else may ask for a read now, and the lease waits for one.
        self._want_read()

    def failed(self, slot: int) -> None:
        """This drive could not be opened; the others do not wait for it."""
        if slot in self._open:
            del self._open[slot]
            self._want_read()

    def take(self, data: bytes, began_us: int | None) -> None:
        """Hand a map on; ``began_us`` only where the lease may rest on it."""
        now = self._clock_us()
        waits = any(now - since < SETTLE_US for since in self._open.values())
        early = began_us is not None and began_us <= self._acknowledged
        self._apply(data, None if waits or early else began_us)
