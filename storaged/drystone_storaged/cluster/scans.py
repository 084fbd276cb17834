"""What the drives of a node say of themselves, read with its server stopped: input of a recovery.

Nothing here is taken from the metadata store: it is what the store is put together from again.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class StoredRole(StrEnum):
    """What a drive noted of itself in the epoch that it noted last."""

    IN_SYNC = "in-sync"
    JOINING = "joining"
    OUT = "out"
    """It left in this epoch, or learnt at an open that it had."""
    FREED = "freed"
    """What it held was freed after a move: it holds nothing whole, and shows that others did."""
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class ScannedPg:
    """One PG on one drive.

    ``epoch`` was noted with ``role``; ``highest_epoch`` is also that of any change in it, which a
    drive that was dropped stamps too. ``ceiling``: no epoch that the drive knows is above.
    """

    pool: int
    pg: int
    epoch: int
    role: StoredRole
    highest_epoch: int
    ceiling: int
    distrusted: bool = False
    objects: int = 0
    blocks: int = 0


@dataclass(frozen=True, slots=True)
class ScannedTicket:
    """The newest attach ticket of a volume: what its record was when it was attached last."""

    serial: int
    generation: int
    size: int
    pool: int
    seed: int
    chain: tuple[int, ...]
    parents: int = 0


@dataclass(frozen=True, slots=True)
class ScannedVolume:
    """One volume on one drive. ``end_block`` counts from the volume's start, 0 = holds nothing."""

    volume: int
    sealed_generation: int
    max_generation: int
    ticket: ScannedTicket | None = None
    layers: tuple[int, ...] = ()
    end_block: int = 0

    @property
    def generation(self) -> int:
        """The highest generation that this drive has seen."""
        ticket = self.ticket.generation if self.ticket else 0
        return max(self.sealed_generation, self.max_generation, ticket)


@dataclass(frozen=True, slots=True)
class ScannedDrive:
    """One drive. ``number`` 0 = it was formatted and never taken into use."""

    uuid: str
    number: int
    cluster: str
    path: str
    addr: str
    serial: str
    capacity: int
    nonce: int
    incarnation: int
    revision: int
    suspect: str = ""
    damaged: tuple[str, ...] = ()
    device: str = ""
    drive_class: str = ""
    pgs: tuple[ScannedPg, ...] = ()
    volumes: tuple[ScannedVolume, ...] = ()
    frozen: tuple[int, ...] = ()
    freed: tuple[int, ...] = ()

    @property
    def proven(self) -> bool:
        """Whether its log can be believed as a whole."""
        return not self.suspect and not self.damaged


@dataclass(frozen=True, slots=True)
class Unread:
    """A drive that this node is known to have, and that could not be read."""

    uuid: str
    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class NodeScan:
    """All drives of one node."""

    cluster: str
    node: str
    node_uuid: str
    made_s: int
    drives: tuple[ScannedDrive, ...] = ()
    unread: tuple[Unread, ...] = ()
