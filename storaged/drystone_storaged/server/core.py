"""The native core as the server's Python side needs it; tests put a fake in its place."""

from __future__ import annotations

from typing import Protocol


class ServerCore(Protocol):
    """See ``drystone_native.ServerCore``."""

    def event_fd(self) -> int:
        """File that is readable while there is news."""
        ...

    def events(self) -> list[str]:
        """Take the news."""
        ...

    def open_drive(self, config: str) -> None:
        """Start a drive's thread."""
        ...

    def close_drive(self, drive: int) -> None:
        """End a drive's thread."""
        ...

    def start_beacon(self, listen: str, boot: int) -> str:
        """Start the beacon."""
        ...

    def use_beacon(self, run_dir: str, instance: int) -> None:
        """Take leases from the page of a beacon process."""
        ...

    def map(self, data: bytes, read_began_us: int | None) -> None:
        """Take a map."""
        ...

    def generations(
        self, drive: int, pool: int, revision: int, entries: list[tuple[int, int, int]]
    ) -> None:
        """Take generations."""
        ...

    def control(self, drive: int, request_id: int, request: str) -> None:
        """Start a control request."""
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

    def stats(self) -> str:
        """Give counters; blocks up to 200 ms a hung drive."""
        ...

    def stop(self) -> None:
        """End every thread; blocks up to 10 s."""
        ...
