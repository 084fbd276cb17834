"""What the driver knows of volumes and attachments, free of CSI's and the manager's wire forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class AccessMode(StrEnum):
    """What a node may do with a volume."""

    READ_WRITE = "rw"
    READ_ONLY = "ro"


class FileSystem(StrEnum):
    """The file systems that the driver makes, checks and grows."""

    EXT4 = "ext4"
    XFS = "xfs"


FILE_SYSTEMS: Final = frozenset(fs.value for fs in FileSystem)


class ContentState(StrEnum):
    """What is known about a volume's bytes; only the state allows formatting."""

    NEVER = "never"
    FORMATTING = "formatting"
    FS = "fs"
    RAW = "raw"


@dataclass(frozen=True, slots=True)
class Content:
    """The ``content`` of a volume's record: ``fs`` for FORMATTING and FS, ``nonce`` for FORMATTING.

    ``nonce`` tells one attempt to format from another, so that a late one loses.
    """

    state: ContentState
    fs: str | None = None
    nonce: str | None = None


NEVER = Content(ContentState.NEVER)
RAW = Content(ContentState.RAW)


@dataclass(frozen=True, slots=True)
class Publication:
    """A node that may use the volume."""

    node: str
    mode: AccessMode


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume as the manager shows it; ``id`` is 16 hexadecimal digits, ``size`` bytes."""

    id: str
    name: str
    size: int
    pool: str
    content: Content = NEVER
    attributes: Mapping[str, str] = field(default_factory=dict)
    publications: tuple[Publication, ...] = ()


@dataclass(frozen=True, slots=True)
class VolumePage:
    """Some volumes in the order of their ids, and where the next page begins."""

    volumes: tuple[Volume, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Capacity:
    """Room in a pool, in bytes of volumes (what the copies take is already off)."""

    total: int
    available: int


class Attacher(StrEnum):
    """How the block daemon makes a device."""

    AUTO = "auto"
    NBD = "nbd"
    FUSE = "fuse"
    EXPORT = "export"


class AttachState(StrEnum):
    """Whether an attached device works."""

    ATTACHING = "attaching"
    ACTIVE = "active"
    STALLED = "stalled"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class Attached:
    """A volume attached on this node; ``device`` is None for an export without one."""

    volume_id: str
    mode: AccessMode
    attacher: Attacher
    state: AttachState
    generation: int
    size: int
    device: str | None
    nbd_uri: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BlockInfo:
    """Who the block daemon is, and whether it can attach."""

    node: str
    cluster_uuid: str
    ready: bool
    reason: str = ""


@dataclass(frozen=True, slots=True)
class BlockStats:
    """Counters of an attachment, as the engine has them."""

    completed_requests: int
    failed_requests: int
    writes_issued: int
    reads_sent: int
    insync_waits: int
    credit_waits: int
