"""Pure planner of PG changes: drop, join, promote, renew. Each bumps the epoch (§4.5, I1, I2).

Nothing here reads a clock or the store; ``membership_service`` turns plans into transactions.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from drystone_common.errors import InvariantError
from drystone_storaged.cluster.pgmap import MEMBERS_MAX, Joiner, OutSince, PgRecord

EPOCH_MAX: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class PgRef:
    """One PG of one pool."""

    pool: int
    pg: int


def drop(record: PgRecord, drive: int, now_s: int, *, blank: bool = False) -> PgRecord | None:
    """Take a drive out; None = it is no member, or it is the last in-sync copy (I1).

    ``e0`` is the last epoch in which the drive was in sync: the one that ends now, or for a
    joiner the one it came with. ``blank``: its content is worth nothing.
    """
    joiner = record.joiner(drive)
    if drive in record.insync:
        if len(record.insync) == 1:
            return None
        e0 = record.epoch
    elif joiner is not None:
        e0 = joiner.e0
    else:
        return None
    gone = OutSince(drive, 0 if blank else e0, now_s)
    changed = replace(
        record,
        epoch=_next(record.epoch),
        insync=tuple(d for d in record.insync if d != drive),
        joining=tuple(j for j in record.joining if j.drive != drive),
        out=_remember(record.out, gone),
    )
    return _checked(record, changed, completed=())


def join(record: PgRecord, drive: int) -> PgRecord | None:
    """Make a drive a joiner; None = it is a member already, or there is no room."""
    if drive in record.members() or len(record.insync) + len(record.joining) >= MEMBERS_MAX:
        return None
    out = record.out_since(drive)
    epoch = _next(record.epoch)
    changed = replace(
        record,
        epoch=epoch,
        joining=(*record.joining, Joiner(drive, epoch, out.e0 if out else 0)),
        out=tuple(o for o in record.out if o.drive != drive),
    )
    return _checked(record, changed, completed=())


def forget_content(record: PgRecord, drives: Iterable[int]) -> PgRecord | None:
    """Take what these drives hold for nothing, where they are out already: they return as blank.

    The drive may be dropped for another reason before it says that its content proves nothing.
    """
    void = set(drives)
    out = tuple(replace(o, e0=0) if o.drive in void else o for o in record.out)
    # No epoch: the member sets stay.
    return None if out == record.out else replace(record, out=out)


def renew(record: PgRecord, drive: int, epoch: int) -> PgRecord | None:
    """The same members in a new epoch: what ``drive`` promised for the one named here ends.

    None = that epoch is over already, or the drive is not in sync. Joiners keep their join epoch:
    their copies go on.
    """
    if record.epoch != epoch or drive not in record.insync:
        return None
    return _checked(record, replace(record, epoch=_next(record.epoch)), completed=())


def promote(record: PgRecord, drive: int, epoch: int) -> PgRecord | None:
    """Make a joiner in sync, if its copy completed in the current epoch."""
    if record.epoch != epoch or record.joiner(drive) is None:
        return None
    changed = replace(
        record,
        epoch=_next(record.epoch),
        insync=_ordered((*record.insync, drive), record.target),
        joining=tuple(j for j in record.joining if j.drive != drive),
    )
    return _checked(record, changed, completed=(drive,))


def forget(record: PgRecord, drives: frozenset[int]) -> PgRecord | None:
    """Forget drives that are gone for good: no longer out, no longer wanted. Not members."""
    if not drives.intersection((*record.target, *(o.drive for o in record.out))):
        return None
    # No epoch: the member sets stay. A forgotten drive that returned would be blank.
    return replace(
        record,
        out=tuple(o for o in record.out if o.drive not in drives),
        target=tuple(d for d in record.target if d not in drives),
    )


def retarget(record: PgRecord, target: tuple[int, ...]) -> PgRecord | None:
    """Want other drives; members change by ``join`` and ``drop`` later."""
    return None if target == record.target else replace(record, target=target)


@dataclass(frozen=True, slots=True)
class Heir:
    """A drive that could take over a PG whose in-sync copies are lost, with what it holds.

    It holds everything of the epochs before ``e0``, and some of what came later; 0 = nothing is
    certain. ``joins``: it gets every write since it joined, and has copied some of the rest.
    """

    drive: int
    e0: int
    joins: bool = False

    def __str__(self) -> str:
        if not self.e0:
            return f"drive {self.drive}, " + (
                "filled in part" if self.joins else "without any of it"
            )
        since = ", and some of what came later" if self.joins else ""
        return f"drive {self.drive}, with all of before epoch {self.e0}{since}"


def heirs(record: PgRecord, up: Collection[int]) -> tuple[Heir, ...]:
    """Drives that could take over, the one that holds most first.

    A joiner that has just begun as blank holds less than a copy that was dropped long ago.
    """
    joining = [Heir(j.drive, j.e0, joins=True) for j in record.joining]
    out = [Heir(o.drive, o.e0) for o in record.out]
    targets = [Heir(drive, 0) for drive in record.target]
    # Stable: of two that are equal the joiner, which has seen newer writes.
    ranked = sorted([*joining, *out, *targets], key=lambda heir: -heir.e0)
    first: dict[int, Heir] = {}
    for heir in ranked:
        if heir.drive in up:
            first.setdefault(heir.drive, heir)
    return tuple(first.values())


def mark_lost(record: PgRecord, heir: int, now_s: int) -> PgRecord:
    """Declare the in-sync copies lost: ``heir`` becomes the only one with what it has.

    The one deliberate exception to I2; only `pool mark-lost` comes here. The former members are
    remembered as blank.
    """
    out = tuple(o for o in record.out if o.drive != heir)
    for drive in record.members():
        if drive != heir:
            out = _remember(out, OutSince(drive, 0, now_s))
    blank = tuple(OutSince(o.drive, 0, o.since_s) for o in out)
    return replace(record, epoch=_next(record.epoch), insync=(heir,), joining=(), out=blank)


def wanted_joins(record: PgRecord, up: frozenset[int]) -> tuple[int, ...]:
    """Drives to join: those that were dropped and are up again, and targets not yet members."""
    members = set(record.members())
    returning = [o.drive for o in record.out if o.drive in record.target]
    return tuple(
        drive
        for drive in dict.fromkeys((*returning, *record.target))
        if drive in up and drive not in members
    )


def effective_min_insync(min_insync: int, width: int) -> int:
    """A pool on fewer domains than copies still works: min(pool's value, width)."""
    return max(1, min(min_insync, width))


def plan_drop(
    pgs: Mapping[PgRef, PgRecord],
    drives: Iterable[int],
    now_s: int,
    *,
    blank: bool = False,
    live: frozenset[int] | None = None,
) -> tuple[dict[PgRef, PgRecord], tuple[PgRef, ...]]:
    """Changes that drop all ``drives`` everywhere, and PGs where one had to stay.

    With ``live``, a PG where copies would be dropped is left as it is unless a live in-sync drive
    remains: a drop there would help nobody, and after a power cut it would throw away good copies
    before they are back. Joiners are nobody's copy, and leave.
    """
    gone = list(drives)
    changed: dict[PgRef, PgRecord] = {}
    kept: list[PgRef] = []
    for ref, record in pgs.items():
        current = record
        for drive in gone:
            current = drop(current, drive, now_s, blank=blank) or current
        fewer = current.insync != record.insync
        if live is not None and fewer and live.isdisjoint(current.insync):
            current = record
        if current is not record:
            # One change of the members is one epoch, however many drives leave together.
            changed[ref] = _squash(record, current)
        if blank and (void := forget_content(changed.get(ref, record), gone)) is not None:
            changed[ref] = void
        if any(drive in current.insync for drive in gone):
            kept.append(ref)
    return changed, tuple(kept)


def _squash(record: PgRecord, current: PgRecord) -> PgRecord:
    # Those that left together were all in sync in the epoch that ends now.
    old = {o.drive: o for o in record.out}
    out = tuple(
        replace(o, e0=record.epoch) if o.e0 > record.epoch and o.drive not in old else o
        for o in current.out
    )
    return replace(current, epoch=_next(record.epoch), out=out)


def _remember(out: tuple[OutSince, ...], gone: OutSince) -> tuple[OutSince, ...]:
    # The record has room for 8; the oldest is forgotten and returns as blank, which is safe.
    kept = (*(o for o in out if o.drive != gone.drive), gone)
    return kept[-MEMBERS_MAX:]


def _ordered(drives: tuple[int, ...], target: tuple[int, ...]) -> tuple[int, ...]:
    # Target order first: "first in-sync member" then means the same drive in quiet times.
    wanted = [d for d in target if d in drives]
    return (*wanted, *(d for d in drives if d not in wanted))


def _next(epoch: int) -> int:
    if epoch >= EPOCH_MAX:
        raise InvariantError("a PG ran out of epochs", code="epochs_exhausted")
    return epoch + 1


def _checked(old: PgRecord, new: PgRecord, *, completed: tuple[int, ...]) -> PgRecord:
    """I1 and I2, asserted on every change."""
    if not new.insync:
        raise InvariantError("I1: a PG would have no in-sync drive", code="invariant_i1")
    if not set(new.insync) <= set(old.insync).union(completed):
        raise InvariantError("I2: a drive would be in sync without a copy", code="invariant_i2")
    if new.epoch != old.epoch + 1 or len(set(new.members())) != len(list(new.members())):
        raise InvariantError("a PG change is malformed", code="invariant_pg")
    return new
