"""How long each drive has been down, by the clock that nobody sets."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from drystone_storaged.cluster.outs import Down
from drystone_storaged.cluster.records import Drive, DriveState


class Downs:
    """What this leader saw of drives, from its election on."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._up: set[int] = set()
        self._since: dict[int, tuple[float, bool]] = {}

    def see(self, drives: Iterable[Drive]) -> None:
        """Look at the drives as they are now."""
        now = self._monotonic()
        for drive in drives:
            if drive.state is DriveState.DOWN:
                self._since.setdefault(drive.id, (now, drive.id in self._up))
                continue
            self._since.pop(drive.id, None)
            if drive.state is DriveState.UP:
                self._up.add(drive.id)

    def figures(self) -> dict[int, Down]:
        """Every drive that is down."""
        now = self._monotonic()
        return {number: Down(now - at, seen) for number, (at, seen) in self._since.items()}

    def clear(self) -> None:
        """What was seen as the leader says nothing about a later time."""
        self._up.clear()
        self._since.clear()
