"""The native core as the beacon's Python side needs it; tests put a fake in its place."""

from __future__ import annotations

from typing import Protocol


class BeaconCore(Protocol):
    """See ``drystone_native.BeaconCore``."""

    def event_fd(self) -> int:
        """File that is readable while there is news."""
        ...

    def events(self) -> list[str]:
        """Take the news."""
        ...

    def start(self, config: str) -> str:
        """Start the thread; gives its real address."""
        ...

    def voters(self, version: int, voters: list[str], nodes: list[tuple[str, str]]) -> None:
        """Take the voters."""
        ...

    def suspects(self, as_of: int, keys: list[tuple[str, int]]) -> None:
        """Take the suspicions that stand."""
        ...

    def ask_vote(self, node: str, round: int) -> None:  # noqa: A002 - the native name
        """Ask for a promise of silence."""
        ...

    def revoke(self, round: int, instance: int) -> None:  # noqa: A002 - the native name
        """Take the server its lease."""
        ...

    def stats(self) -> str:
        """Figures of the thread, as JSON."""
        ...

    def stop(self) -> None:
        """Withdraw every lease and end the thread; blocks up to 2 s."""
        ...
