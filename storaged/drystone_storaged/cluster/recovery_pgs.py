"""Who is in sync in one PG, by what the drives noted: pure, and refused rather than guessed.

A drive notes its role with the epoch in which it has it, at most a second late and at every orderly
stop; a change that was acknowledged in an epoch is stamped with it, durably, on every member. So a
drive that noted *in sync* in the highest epoch that any drive shows holds everything that was
acknowledged, as long as no drive is missing. A drive that was dropped may carry stamps of the epoch
of its drop: a stamp alone makes nobody in sync.
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
        insync, refusal = _in_sync(name, counted, clean=clean)
        if refusal:
            return Decision(None, refusal=refusal)
    else:
        # No drive has a trace of it: nothing was ever acknowledged there.
        insync = list(dict.fromkeys(wanted))[: max(1, len(record.target))]
        if not insync:
            return Decision(None, refusal=f"{name}: every drive that had it is given up")
        if gone.intersection((*record.members(), *record.target)):
            note = f"{name}: only drives that are given up had it, it goes on empty"
    changed = _record(record, insync, usable, ceiling + EPOCH_GAP, now_s)
    return Decision(changed, note=note or _told(name, record, changed))


def _in_sync(name: str, claims: list[Claim], *, clean: bool) -> tuple[list[int], str]:
    newest = max(c.pg.highest_epoch for c in claims)
    found = [
        c
        for c in claims
        if c.pg.epoch == newest and c.pg.role is StoredRole.IN_SYNC and not c.pg.distrusted
    ]
    if not found:
        said = ", ".join(
            f"drive {c.drive}: {c.pg.role.value} in epoch {c.pg.epoch}"
            + (", distrusted" if c.pg.distrusted else "")
            for c in claims
        )
        return [], (
            f"{name}: the newest epoch on any drive is {newest}, and none noted that it was in "
            f"sync in it ({said})"
        )
    empty = [c.drive for c in found if not c.pg.objects]
    if clean and empty and len(empty) < len(found):
        return [], (
            f"{name}: nobody can have written since the copy, yet drives {empty} hold nothing and "
            f"drives {[c.drive for c in found if c.pg.objects]} do"
        )
    return [c.drive for c in found], ""


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
