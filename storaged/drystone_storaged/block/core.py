"""The native core as the daemon's Python side needs it; tests put a fake in its place."""

from __future__ import annotations

from typing import Protocol


class BlockCore(Protocol):
    """See ``drystone_native.BlockCore``."""

    def event_fd(self) -> int:
        """File that is readable while there is news."""
        ...

    def events(self) -> list[str]:
        """Take the news."""
        ...

    def map(self, data: bytes) -> None:
        """Take a map."""
        ...

    def attach(self, ticket: bytes, config: str) -> None:
        """Start a sequencer and its NBD server."""
        ...

    def activated(self, volume: int, generation: int, outcome: str) -> None:
        """Tell the outcome of Activate."""
        ...

    def ticket(self, volume: int, ticket: bytes) -> None:
        """Hand over a newer ticket."""
        ...

    def detach(self, volume: int) -> None:
        """Drain and end."""
        ...

    def revoked(self, volume: int) -> None:
        """Fence at once."""
        ...

    def stats(self) -> str:
        """Give counters; blocks for at most a second."""
        ...

    def stop(self) -> None:
        """End the thread; attachments stay in the manager's record."""
        ...
