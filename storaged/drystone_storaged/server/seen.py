"""The newest state of the metadata store that this node knows of: its own maps, and its drives'."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Opened(Protocol):
    """A drive of this server; what its superblock said when it was looked at last."""

    store_seen: tuple[int, int]


@dataclass(frozen=True, slots=True)
class SeenStore:
    """``incarnation`` is that of this process's registration, as are the revisions of its maps."""

    incarnation: int
    revision: Callable[[], int]
    drives: Sequence[Opened]

    def newest(self) -> tuple[int, int]:
        """Incarnation and revision; a later incarnation begins a new count."""
        mine = (self.incarnation, self.revision())
        return max([mine, *(drive.store_seen for drive in self.drives)])
