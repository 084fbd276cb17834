"""A small model of drives and a metadata store, for recoveries: written without the planner.

One placement group. What each drive holds durably (contents, stamps, notes) is kept apart from what
is true (the records of the store), and every record that ever was is remembered as a copy. Notes
lag behind as they do in the engine: they are made when the test says so, joins and orderly leaves
at once. Drives come after a copy was made, so that it does not know them, and need not be scanned.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.pgmap import Joiner, OutSince, PgRecord
from drystone_storaged.cluster.records import (
    ChainLink,
    Cluster,
    Content,
    ContentState,
    Drive,
    DriveState,
    FailureDomain,
    Pool,
    Volume,
)
from drystone_storaged.cluster.recovery_inputs import Backup, Inputs
from drystone_storaged.cluster.scans import (
    NodeScan,
    ScannedDrive,
    ScannedPg,
    ScannedTicket,
    ScannedVolume,
    StoredRole,
)

CLUSTER = "00000000-0000-0000-0000-00000000000c"
REF = PgRef(1, 0)
VOLUME = Volume(11, "v", 1, 1 << 20, 7, (ChainLink(12),))
CONTENTS = {
    ContentState.NEVER: Content(),
    ContentState.FORMATTING: Content(ContentState.FORMATTING, "ext4", "n"),
    ContentState.FS: Content(ContentState.FS, "ext4"),
    ContentState.RAW: Content(ContentState.RAW),
}
__all__ = ["CLUSTER", "REF", "VOLUME", "Cluster", "Copy", "Disk", "World"]


@dataclass(frozen=True)
class Copy:
    """The store as it was once."""

    record: PgRecord
    generation: int
    content: ContentState
    drives: frozenset[int]


@dataclass
class Disk:
    """What is durable on one drive."""

    number: int
    holds: set[int] = field(default_factory=set)
    noted: tuple[int, StoredRole] = (0, StoredRole.UNKNOWN)
    stamp: int = 0
    sealed: int = 0

    @property
    def blank(self) -> bool:
        return not self.holds and not self.stamp and not self.noted[0]


@dataclass
class World:
    """The truth, the drives, and every copy of the store that could have been made."""

    drives: int = 4
    width: int = 3
    epoch: int = 1
    insync: set[int] = field(default_factory=lambda: {1, 2, 3})
    joining: dict[int, int] = field(default_factory=dict)
    out: set[int] = field(default_factory=set)
    target: tuple[int, ...] = (1, 2, 3)
    generation: int = 1
    acked: set[int] = field(default_factory=set)
    issued: int = 0
    disks: dict[int, Disk] = field(default_factory=dict)
    content: ContentState = ContentState.NEVER
    settled: set[int] = field(default_factory=set)
    stable: bool = True
    copies: list[Copy] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.disks = {n: Disk(n) for n in range(1, self.drives + 1)}
        for number in self.insync:
            self.disks[number].noted = (1, StoredRole.IN_SYNC)
        self.save()

    @property
    def members(self) -> set[int]:
        return self.insync | set(self.joining)

    def role(self, drive: int) -> StoredRole:
        return StoredRole.IN_SYNC if drive in self.insync else StoredRole.JOINING

    def save(self) -> None:
        """The store changed: this is one more copy that may come back."""
        joiners = tuple(Joiner(d, e, 0) for d, e in sorted(self.joining.items()))
        out = tuple(OutSince(d, 1, 5) for d in sorted(self.out))
        record = PgRecord(self.epoch, tuple(sorted(self.insync)), joiners, out, self.target)
        self.copies.append(Copy(record, self.generation, self.content, frozenset(self.disks)))

    def copy(self, number: int) -> Copy:
        return self.copies[number % len(self.copies)]

    def write(self, *, reaches: set[int] | None = None) -> None:
        """A write; without ``reaches`` it is acknowledged, else it got that far and no further."""
        self.issued += 1
        self.stable = False
        for number in self.members if reaches is None else reaches & self.members:
            self.disks[number].holds.add(self.issued)
            self.disks[number].stamp = max(self.disks[number].stamp, self.epoch)
        if reaches is None:
            self.acked.add(self.issued)

    def idle(self) -> None:
        """The owner tells everybody that all is acknowledged, unless something is in flight."""
        known = self.acked | self.settled
        self.stable = all(self.disks[d].holds <= known for d in self.members)

    def add(self, drive: int) -> None:
        """A drive is taken into use: copies that were made before do not know it."""
        if drive not in self.disks:
            self.disks[drive] = Disk(drive)
            self.save()

    def drop(self, drive: int, *, knows: bool, notes: bool = False) -> None:
        """``knows``: it adopts its own drop, and stamps what is not stable with that epoch.

        ``notes``: and says so in its log, which versions before did not.
        """
        if drive in self.joining:
            del self.joining[drive]
        elif drive in self.insync and len(self.insync) > 1:
            self.insync.discard(drive)
        else:
            return
        self.epoch += 1
        self.out.add(drive)
        if knows and self.disks[drive].holds and not self.stable:
            self.disks[drive].stamp = self.epoch
        if notes:
            self.disks[drive].noted = (self.epoch, StoredRole.OUT)
        self.save()

    def learn(self, drive: int) -> None:
        """One that was dropped while it was away opens again, and reads the map."""
        disk = self.disks.get(drive)
        freed = disk is not None and disk.noted[1] is StoredRole.FREED
        if disk and disk.noted[0] and not freed and drive not in self.members:
            disk.noted = (max(disk.noted[0], self.epoch), StoredRole.OUT)

    def join(self, drive: int) -> None:
        if drive in self.members or drive not in self.disks:
            return
        self.epoch += 1
        self.joining[drive] = self.epoch
        self.out.discard(drive)
        # Before it answers anything in this epoch.
        self.disks[drive].noted = (self.epoch, StoredRole.JOINING)
        self.save()

    def promote(self, drive: int) -> None:
        if drive not in self.joining:
            return
        source = self.disks[min(self.insync)]
        self.disks[drive].holds = set(source.holds)
        self.disks[drive].stamp = max(self.disks[drive].stamp, source.stamp)
        del self.joining[drive]
        self.epoch += 1
        self.insync.add(drive)
        self.save()

    def retarget(self, drive: int) -> None:
        """Data shall move: the last place of the target goes to another drive."""
        if drive not in self.target and drive in self.disks:
            self.target = (*self.target[:-1], drive)
            self.save()

    def free(self, drive: int) -> None:
        """What a move left goes: the drive is forgotten, and every place has its copy."""
        if drive in self.members or drive in self.target or not self.insync.issuperset(self.target):
            return
        if drive not in self.disks:
            return
        self.out.discard(drive)
        self.disks[drive].noted = (self.epoch, StoredRole.FREED)
        self.disks[drive].holds = set()
        self.save()

    def note(self, drive: int) -> None:
        if drive in self.members:
            self.disks[drive].noted = (self.epoch, self.role(drive))

    def attach(self) -> None:
        """A new owner; every member seals, and what was in flight becomes equal on all in sync."""
        self.generation += 1
        union = set().union(*(self.disks[d].holds for d in self.insync))
        for number in self.insync:
            self.disks[number].holds = set(union)
            self.disks[number].stamp = self.epoch
        self.settled |= union
        for number in self.members:
            self.disks[number].sealed = self.generation
        self.save()

    def format(self) -> None:
        """The consumer begins to make a file system; a crash may leave it there."""
        if self.content in {ContentState.NEVER, ContentState.FORMATTING}:
            self.content = ContentState.FORMATTING
            self.save()
            self.write()

    def formatted(self) -> None:
        if self.content is ContentState.FORMATTING:
            self.content = ContentState.FS
            self.save()

    def stop_in_order(self) -> None:
        for drive in self.members:
            self.note(drive)

    def inputs(
        self,
        copy: int,
        without: frozenset[int] = frozenset(),
        missing: frozenset[int] | None = None,
    ) -> Inputs:
        """That copy of the store, and scans of all drives but those ``missing`` (``without``)."""
        old = self.copy(copy)
        left = without if missing is None else missing
        disks = [d for n, d in self.disks.items() if n not in left]
        scans = [
            NodeScan(CLUSTER, f"n{d.number}", f"{d.number:032x}", 9, (_scan(d),)) for d in disks
        ]
        volume = replace(
            VOLUME, generation=old.generation, clean=False, content=CONTENTS[old.content]
        )
        return Inputs(backup(old.record, old.drives, (volume,)), tuple(scans), without, 99, 77)


def backup(record: PgRecord, drives: object, volumes: tuple[Volume, ...] = ()) -> Backup:
    """A store with one pool of one PG."""
    numbers = sorted(drives)  # type: ignore[call-overload]
    return Backup(
        CLUSTER, 1, 50, {n: stored(n) for n in numbers},
        {1: Pool(1, "default", 3, 2, FailureDomain.NODE, 1, width=3)}, {REF: record}, volumes,
    )  # fmt: skip


def stored(number: int) -> Drive:
    uuid = f"00000000-0000-0000-0000-{number:012x}"
    return Drive(
        number, uuid, f"{number:032x}", f"n{number}", f"s{number}", 1 << 30, f"n{number}:1", 1,
        state=DriveState.UP, proven=True,
    )  # fmt: skip


def _scan(disk: Disk) -> ScannedDrive:
    epoch, role = disk.noted
    highest = max(epoch, disk.stamp)
    pg = ScannedPg(1, 0, epoch, role, highest, highest, objects=len(disk.holds))
    ticket = ScannedTicket(1, disk.sealed, 1 << 20, 1, 7, (12,))
    volume = ScannedVolume(
        11, disk.sealed, disk.sealed, ticket if disk.sealed else None,
        layers=(12,) if disk.holds else (), end_block=len(disk.holds),
    )  # fmt: skip
    known = disk.sealed or disk.holds
    return ScannedDrive(
        stored(disk.number).uuid, disk.number, CLUSTER, "/d", "h:1", f"s{disk.number}", 1 << 30, 5,
        1, 40, pgs=() if disk.blank else (pg,), volumes=(volume,) if known else (),
    )  # fmt: skip
