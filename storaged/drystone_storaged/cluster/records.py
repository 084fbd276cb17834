"""Values of the metadata store, as frozen records; ``codec`` gives them their stored form."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class AttachMode(StrEnum):
    """What an attachment may do."""

    READ_WRITE = "rw"
    READ_ONLY = "ro"


class AttachState(StrEnum):
    """Before and after the final transaction of an attach (A5)."""

    SEALING = "sealing"
    ACTIVE = "active"


class ContentState(StrEnum):
    """What a volume holds, as far as formatting goes; only ever forwards."""

    NEVER = "never"
    FORMATTING = "formatting"
    FS = "fs"
    RAW = "raw"


class DriveState(StrEnum):
    """Up: open and ready. Gone: forgotten for good."""

    UP = "up"
    DOWN = "down"
    GONE = "gone"


class LayerState(StrEnum):
    """Life of a layer."""

    HEAD = "head"
    FROZEN = "frozen"
    DELETED = "deleted"


class FailureDomain(StrEnum):
    """What copies of one PG must not share."""

    AUTO = "auto"
    FAULT_SET = "fault-set"
    NODE = "node"
    DRIVE = "drive"


class Rebalance(StrEnum):
    """Whether a pool is balanced by itself, or when somebody asks."""

    AUTO = "auto"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class Attachment:
    """One block daemon's hold on a volume."""

    client: str
    node: str
    nonce: int
    mode: AttachMode
    state: AttachState


@dataclass(frozen=True, slots=True)
class Publication:
    """A consuming node that may attach."""

    node: str
    mode: AttachMode


@dataclass(frozen=True, slots=True)
class Fencing:
    """A fence whose proof is outstanding; ``nodes`` lose their publications when it is there."""

    generation: int
    nodes: tuple[str, ...] = ()
    of: tuple[str, ...] | None = None
    """Nodes that were shut out; None in a record from before that was noted: it may be any."""

    def concerns(self, node: str) -> bool:
        """Whether this node may have something that the proof is still outstanding for."""
        return self.of is None or node in self.of or node in self.nodes


@dataclass(frozen=True, slots=True)
class Content:
    """See ``ContentState``; ``fs`` with formatting and fs, ``nonce`` with formatting."""

    state: ContentState = ContentState.NEVER
    fs: str | None = None
    nonce: str | None = None


@dataclass(frozen=True, slots=True)
class ChainLink:
    """A layer of the own chain; (0, 0) = not frozen."""

    layer: int
    cut_generation: int = 0
    cut_seq: int = 0


@dataclass(frozen=True, slots=True)
class ParentLink:
    """A frozen layer of another lineage, read where the own lineage has nothing."""

    lineage: int
    layer: int
    cut_generation: int
    cut_seq: int
    size: int
    seed: int
    pool: int


@dataclass(frozen=True, slots=True)
class NextHead:
    """First phase of a snapshot: only the sequencer of ``generation`` may act on it."""

    layer: int
    generation: int


@dataclass(frozen=True, slots=True)
class LostPg:
    """A PG whose data was declared lost, with the epoch that followed."""

    pg: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume; its id is also the id of its lineage."""

    id: int
    name: str
    pool: int
    size: int
    seed: int
    chain: tuple[ChainLink, ...]
    parents: tuple[ParentLink, ...] = ()
    next_head: NextHead | None = None
    generation: int = 0
    owner: int = 0
    clean: bool = True
    ticket_serial: int = 0
    attachments: tuple[Attachment, ...] = ()
    publications: tuple[Publication, ...] = ()
    fencing: Fencing | None = None
    lost_pgs: tuple[LostPg, ...] = ()
    content: Content = field(default_factory=Content)
    attributes: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> int:
        """The layer that takes writes."""
        return self.chain[0].layer


@dataclass(frozen=True, slots=True)
class Layer:
    """One mutable head or immutable snapshot of a lineage."""

    id: int
    lineage: int
    pool: int
    seed: int
    size: int
    state: LayerState
    parent: int = 0
    cut_generation: int = 0
    cut_seq: int = 0


@dataclass(frozen=True, slots=True)
class Pool:
    """Properties of a pool; its map lies beside it in shards."""

    id: int
    name: str
    copies: int
    min_insync: int
    failure_domain: FailureDomain
    pg_count: int
    drive_class: str = ""
    width: int = 0
    reserve_percent: int = 5
    out_time_s: int = 600
    """After so long a drive that is out is re-created on another one; 0 = never by itself."""
    rebalance: Rebalance = Rebalance.AUTO
    scrub_days: int = 14
    """Within so many days every drive is read back and all copies are compared; 0 = never."""


@dataclass(frozen=True, slots=True)
class Node:
    """A storage node or, under ``/client/``, a consuming one: a name bound to a uuid."""

    name: str
    uuid: str
    version: str = ""
    fault_set: str = ""
    beacon_addr: str = ""
    feature_level: int = 1
    page_instance: int = 0
    """At the lease page, of the server process that registered last; 0 = its beacon is inside."""


@dataclass(frozen=True, slots=True)
class Drive:
    """A drive. ``previous_nonce`` is valid until the new one is reported to be on the drive.

    ``granted_nonces``: those of opens since then, newest last; which of them is on the drive is not
    known, because a late call of an ended process may have been written after its successor's.
    ``ended``: it is proven that this open answers no request any more; it is down, and may be
    dropped without a wait. A drive can be down without that: one that hangs still answers reads.
    ``proven``: it was ready once; before that it holds nothing and its superblock may lack a nonce.
    ``device``: id of the wanted device that it lies on; empty for a drive of a server's settings.
    ``evacuating``: its copies go elsewhere and it gets no new ones; it serves until then.
    """

    id: int
    uuid: str
    node: str
    node_name: str
    serial: str
    capacity: int
    addr: str
    nonce: int
    previous_nonce: int = 0
    state: DriveState = DriveState.DOWN
    weight: float = 0.0
    drive_class: str = ""
    reason: str = ""
    proven: bool = False
    ended: bool = False
    device: str = ""
    evacuating: bool = False
    granted_nonces: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Differing:
    """A placement group whose in-sync copies differ, in so many blocks."""

    pg: int
    blocks: int
    examples: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """How the last scrub of a drive, or the last comparison of a pool's copies, ended.

    ``since_s``: when it was there first, for what was never scrubbed. ``left``: bad blocks that
    were not healed. ``skipped``: groups that could not be compared. ``differing``: groups that
    differed when they were compared last, ``divergent`` their blocks.
    """

    id: int
    since_s: int
    done_s: int = 0
    bad: int = 0
    left: int = 0
    divergent: int = 0
    skipped: int = 0
    examples: tuple[str, ...] = ()
    differing: tuple[Differing, ...] = ()


@dataclass(frozen=True, slots=True)
class WantedDrive:
    """A device that a node shall serve. ``slot`` is its own for as long as it is wanted."""

    device: str
    slot: int
    power_loss_protected: bool = False


@dataclass(frozen=True, slots=True)
class WantedDrives:
    """Of one node, by slot. Never deleted while the node is known: its revision only grows."""

    node: str
    drives: tuple[WantedDrive, ...] = ()


@dataclass(frozen=True, slots=True)
class Order:
    """Free a layer. Done when every drive that may hold it confirmed."""

    id: int
    pool: int
    layer: int
    confirmed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Voters:
    """Who votes on silence; changed one at a time."""

    version: int
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suspicion:
    """A node that is taken for silent or still, while its drop is under way.

    ``round`` is 0 in the store: readers put the revision there that wrote the key.
    """

    node: str
    round: int = 0


@dataclass(frozen=True, slots=True)
class Maintenance:
    """Somebody works on a storage node: times are wall clock, they hold nothing but re-creation.

    ``ended``: a person ended it before ``until_s``, which is the moment of that then.
    """

    node: str
    until_s: int
    reason: str = ""
    begun_s: int = 0
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Strike:
    """A drive was dropped because it was slow or hung; wall clock."""

    at_s: int
    reason: str


@dataclass(frozen=True, slots=True)
class DriveHealth:
    """What is held against a drive that serves, or would. Not in the map: no data depends on it.

    ``held``: dropped because it was slow or hung, and down until it passes a test. ``tried_s``:
    when it was dropped, or tested last (wall clock); ``tries`` counts the tests that it failed.
    ``ejected``: out until a person says otherwise.
    """

    drive: int
    strikes: tuple[Strike, ...] = ()
    held: bool = False
    tried_s: int = 0
    tries: int = 0
    last: str = ""
    ejected: bool = False

    @property
    def out(self) -> bool:
        """Whether it may not be up, whatever its server says."""
        return self.held or self.ejected


@dataclass(frozen=True, slots=True)
class JoinToken:
    """Admits one node or client; spent by its first use."""

    role: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Written once, at the first start of the first manager."""

    uuid: str
    created_s: int
    key_epoch: int = 1


@dataclass(frozen=True, slots=True)
class Task:
    """Long work that survives the manager; ``cursor`` says where to go on."""

    id: int
    kind: str
    subject: str
    state: str
    done: int = 0
    total: int = 0
    cursor: str = ""
    detail: str = ""
    created_s: int = 0
