"""The two things the driver talks to, as narrow as it needs them.

Both raise ``DrystoneError``s only. Every method may be repeated with the same arguments, also
when the outcome of the first call is unknown, and ends by its caller's deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from drystone_csi.model import (
    AccessMode,
    Attached,
    Attacher,
    BlockInfo,
    BlockStats,
    Capacity,
    Content,
    Volume,
    VolumePage,
)


class ManagerApi(Protocol):
    """The cluster's manager. Volumes are named by id; ``create_volume`` finds them by name."""

    async def cluster_uuid(self) -> str:
        """Give the cluster's id, which never changes."""
        ...

    async def healthy(self) -> bool:
        """Say whether the manager answers; never raises."""
        ...

    async def create_volume(
        self, name: str, size: int, pool: str | None, attributes: Mapping[str, str]
    ) -> Volume:
        """Make it, or give the one that is there if it is the same; else AlreadyExistsError."""
        ...

    async def get_volume(self, id_or_name: str) -> Volume:
        """Give one volume, or NotFoundError."""
        ...

    async def list_volumes(self, limit: int, cursor: str | None) -> VolumePage:
        """Give a page; a cursor that was never given out is code ``invalid_cursor``."""
        ...

    async def delete_volume(self, volume_id: str) -> None:
        """Remove it; one that is published is ConflictError, one that is not there fine."""
        ...

    async def resize_volume(self, volume_id: str, size: int) -> Volume:
        """Grow it to ``size`` bytes; never shrinks."""
        ...

    async def capacity(self, pool: str | None) -> Capacity:
        """Give the room in a pool, by default in the default pool."""
        ...

    async def publish(self, volume_id: str, node: str, mode: AccessMode) -> None:
        """Let a node use it. ConflictError codes: ``volume_published_elsewhere``,
        ``volume_mode_conflict``; NotFoundError codes: ``volume_not_found``, ``node_not_found``.
        """  # noqa: D205 - the codes are the summary
        ...

    async def unpublish(self, volume_id: str, node: str | None) -> None:
        """Take that back, for every node if None. When it returns the node cannot write."""
        ...

    async def set_content(self, volume_id: str, expect: Content, to: Content) -> None:
        """Change ``content`` if it is as expected (or already changed), else ConflictError of
        code ``content_conflict``.
        """  # noqa: D205 - one sentence
        ...


class BlockApi(Protocol):
    """The block daemon of this node."""

    async def info(self) -> BlockInfo:
        """Say who it is; answers without the manager."""
        ...

    async def attach(self, volume_id: str, mode: AccessMode, attacher: Attacher) -> Attached:
        """Make the volume a device here."""
        ...

    async def detach(self, volume_id: str, *, force: bool = False) -> None:
        """Remove the device; an open one is ConflictError unless forced."""
        ...

    async def attached(self, volume_id: str) -> Attached | None:
        """Give the attachment of one volume."""
        ...

    async def list(self) -> tuple[Attached, ...]:
        """Give all attachments here."""
        ...

    async def resize(self, volume_id: str, size_min: int) -> Attached:
        """Make the device as large as the volume is; at least ``size_min`` bytes."""
        ...

    async def stats(self, volume_id: str) -> BlockStats:
        """Give the counters of an attachment."""
        ...
