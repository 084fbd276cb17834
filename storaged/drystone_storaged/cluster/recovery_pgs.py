"""Who is in sync in one PG, by what the drives noted: pure, and refused rather than guessed.

A drive notes its role with the epoch in which it has it, at most a second late and at every orderly
stop; a change that was acknowledged in an epoch is stamped with it, durably, on every member. So a
drive that noted *in sync* in the highest epoch that any drive shows holds everything that was
acknowledged, as long as no drive is missing. A drive that was dropped may carry stamps of the epoch
of its drop: a stamp alone makes nobody in sync. One that left notes that too, with the epoch it
left in: whoever was in sync before is not known to be so since. Drives that are given up count for
nothing but this: what they show may be newer than all that is left, which is then no answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drystone_storaged.cluster.membership import EPOCH_MAX, PgRef
from drystone_storaged.cluster.pgmap import MEMBERS_MAX, OutSince, PgRecord
from drystone_storaged.cluster.scans import ScannedPg, StoredRole

EPOCH_GAP: Final = 1 << 16
"""Epochs that nobody noted may still stand in the map of a client that runs on. One of the same
number and other members would let it complete a write without one of them."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a drive says of a PG. ``counts``: it is neither given up nor forgotten."""

    drive: int
    pg: ScannedPg
    counts: bool = True

    @property
    def newest(self) -> int:
        """The highest epoch of which the drive shows a trace."""
        return max(self.pg.epoch, self.pg.highest_epoch)

    def __str__(self) -> str:
        given_up = "" if self.counts else ", given up"
        distrusted = ", distrusted" if self.pg.distrusted else ""
        role = f"{self.pg.role.value} in epoch {self.pg.epoch}"
        return f"drive {self.drive}{given_up}: {role}{distrusted}"


@dataclass(frozen=True, slots=True)
class Decision:
    """The new record, or why there is none. ``note``: something that a person should know."""

    record: PgRecord | None
    refusal: str = ""
    note: str = ""


def decide(
    ref: PgRef,
    record: PgRecord,
    claims: tuple[Claim, ...],
    *,
    usable: frozenset[int],
    gone: frozenset[int],
    clean: bool,
    now_s: int,
) -> Decision:
    """The record of a PG as it goes on. ``usable``: drives that were scanned and are kept."""
    name = f"PG {ref.pool}/{ref.pg}"
    counted = [c for c in claims if c.counts]
    wanted = [d for d in (*record.target, *record.members()) if d in usable]
    ceiling = max([record.epoch, *(c.pg.ceiling for c in claims)])
    if ceiling + EPOCH_GAP >= EPOCH_MAX:
        return Decision(None, refusal=f"{name} ran out of epochs")
    note = ""
    if counted:
        insync, refusal = _in_sync(name, claims, clean=clean)
        refusal = refusal or _passed_over(name, record, claims, usable)
        if refusal:
            return Decision(None, refusal=refusal)
    else:
        # No drive has a trace of it: nothing was ever acknowledged there.
        insync = list(dict.fromkeys(wanted))[: max(1, len(record.target))]
        if not insync:
            return Decision(None, refusal=f"{name}: every drive that had it is given up")
        if claims or gone.intersection((*record.members(), *record.target)):
            note = f"{name}: only drives that are given up had it, it goes on empty"
    changed = _record(record, insync, usable, ceiling + EPOCH_GAP, now_s)
    return Decision(changed, note=note or _told(name, record, changed))


def _in_sync(name: str, claims: tuple[Claim, ...], *, clean: bool) -> tuple[list[int], str]:
    newest = max(c.newest for c in claims)
    found = [
        c
        for c in claims
        if c.counts
        and c.pg.epoch == newest
        and c.pg.role is StoredRole.IN_SYNC
        and not c.pg.distrusted
    ]
    if not found:
        return [], (
            f"{name}: the newest epoch on any drive is {newest}, and of those that are kept none "
            f"noted that it was in sync in it ({'; '.join(str(c) for c in claims)})"
        )
    empty = [c.drive for c in found if not c.pg.objects]
    if clean and empty and len(empty) < len(found):
        return [], (
            f"{name}: nobody can have written since the copy, yet drives {empty} hold nothing and "
            f"drives {[c.drive for c in found if c.pg.objects]} do"
        )
    return [c.drive for c in found], ""


def _passed_over(
    name: str, record: PgRecord, claims: tuple[Claim, ...], usable: frozenset[int]
) -> str:
    """The copy may know a later epoch than any drive that is left, with all of its data gone."""
    newest = max(c.newest for c in claims)
    if record.epoch <= newest or usable.intersection(record.insync):
        return ""
    return (
        f"{name}: in epoch {record.epoch} only drives {sorted(record.insync)} were in sync, says "
        f"the copy, and all of them are given up; what is left is of epoch {newest}"
    )


def _record(
    record: PgRecord, insync: list[int], usable: frozenset[int], epoch: int, now_s: int
) -> PgRecord:
    width = max(1, len(record.target))
    # Who is in sync is wanted first: data is where it was moved to since the copy was made.
    wanted = [*insync, *(d for d in record.target if d in usable)]
    target = tuple(dict.fromkeys(wanted))[:width]
    # They copy everything (`e0` 0): what they hold may be of any epoch. Others are forgotten here,
    # and would return as blank ones.
    out = tuple(OutSince(d, 0, now_s) for d in target if d not in insync)
    return PgRecord(epoch, _ordered(insync, record.target), (), out, target)


def _ordered(insync: list[int], target: tuple[int, ...]) -> tuple[int, ...]:
    first = [d for d in target if d in insync]
    return tuple(dict.fromkeys((*first, *insync)))[:MEMBERS_MAX]


def _told(name: str, old: PgRecord, new: PgRecord) -> str:
    if set(old.insync) == set(new.insync):
        return ""
    return f"{name}: in sync are {sorted(new.insync)}, the copy says {sorted(old.insync)}"
