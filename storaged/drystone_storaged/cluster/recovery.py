"""Bringing an old copy of the metadata store up to what the drives have seen: the pure planner.

The store may be any earlier one of this cluster. Who is in sync is therefore decided by what the
drives say, and never by it; of everything else it is the base. Numbers that fence (epochs,
generations, the incarnation, ids) go above all that was ever seen. What cannot be decided is
refused with a reason: ``Recovery.refusals``; nothing is written then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.records import (
    Drive,
    DriveState,
    Node,
    Voters,
)
from drystone_storaged.cluster.recovery_drives import (
    any_given_up,
    check_drives,
    check_scans,
    drive_notes,
    known_drives,
    new_nodes,
    recorded_drives,
    unknown_pools,
)
from drystone_storaged.cluster.recovery_inputs import Backup, Inputs
from drystone_storaged.cluster.recovery_pgs import Claim, Decision, decide
from drystone_storaged.cluster.recovery_volumes import Records, VolumePlan, plan_volumes
from drystone_storaged.cluster.scans import ScannedDrive

REVISION_GAP: Final = 10_000
"""Drives note the store's revision at most once a minute: in that time a cluster makes fewer."""

OBJECT_GAP: Final = 1_000_000
"""Volumes that were made and never attached leave no trace, but their ids may stand elsewhere."""

DRIVE_GAP: Final = 1_000
"""As above; drives are taken one by one, and far fewer."""

VOTERS_GAP: Final = 1_000
"""A list of voters that a running beacon has is older than the recovered one."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """What is to be written, what a person should know, and what stands against it."""

    incarnation: int
    revision_min: int
    decisions: Mapping[PgRef, Decision]
    drives: Mapping[int, Drive]
    nodes: Mapping[str, Node]
    volumes: VolumePlan
    voters: Voters
    counters: Mapping[str, int]
    notes: tuple[str, ...]
    refusals: tuple[str, ...]

    @property
    def pgs(self) -> dict[PgRef, PgRecord]:
        """The new record of every PG."""
        return {ref: d.record for ref, d in self.decisions.items() if d.record is not None}


def plan(inputs: Inputs) -> Recovery:
    """Decide everything; the same inputs give the same plan."""
    backup = inputs.backup
    refusals = check_scans(inputs)
    scanned = known_drives(inputs)
    refusals += check_drives(inputs, scanned)
    live = {n: d for n, d in scanned.items() if n not in inputs.without}
    usable = frozenset(
        n for n in live if n not in backup.drives or backup.drives[n].state is not DriveState.GONE
    )
    decisions = _decide_pgs(inputs, scanned, usable)
    refusals += [d.refusal for d in decisions.values() if d.refusal]
    refusals += unknown_pools(backup, live)
    records = Records(
        backup.volumes,
        backup.layers,
        backup.orders,
        frozenset(backup.pools),
        next_order=backup.counters.get("order", 1),
        given_up=any_given_up(inputs),
    )
    volumes = plan_volumes(records, tuple(scanned.values()), inputs.nonce)
    notes = [d.note for d in decisions.values() if d.note]
    return Recovery(
        max([backup.incarnation, *(d.incarnation for d in scanned.values())]) + 1,
        max([backup.revision, *(d.revision for d in scanned.values())]) + REVISION_GAP,
        decisions,
        recorded_drives(inputs, live),
        new_nodes(inputs),
        volumes,
        replace(backup.voters, version=backup.voters.version + VOTERS_GAP),
        _counters(backup, scanned, volumes),
        (*drive_notes(inputs), *notes, *volumes.notes),
        (*refusals, *volumes.refusals),
    )


def _decide_pgs(
    inputs: Inputs, scanned: Mapping[int, ScannedDrive], usable: frozenset[int]
) -> dict[PgRef, Decision]:
    claims: dict[PgRef, list[Claim]] = {}
    for number, drive in sorted(scanned.items()):
        for pg in drive.pgs:
            ref = PgRef(pg.pool, pg.pg)
            claims.setdefault(ref, []).append(Claim(number, pg, counts=number in usable))
    clean = _clean_pools(inputs.backup, scanned)
    gone = inputs.without | {
        n for n, d in inputs.backup.drives.items() if d.state is DriveState.GONE
    }
    out: dict[PgRef, Decision] = {}
    for ref, record in inputs.backup.pgs.items():
        out[ref] = decide(
            ref,
            record,
            tuple(claims.pop(ref, ())),
            usable=usable,
            gone=frozenset(gone),
            clean=ref.pool in clean,
            now_s=inputs.now_s,
        )
    for ref, left in claims.items():
        if ref.pool in inputs.backup.pools and any(c.counts for c in left):
            drives = sorted(c.drive for c in left)
            why = f"PG {ref.pool}/{ref.pg} is on drives {drives}, and its pool has no such PG"
            out[ref] = Decision(None, refusal=why)
    return out


def _clean_pools(backup: Backup, scanned: Mapping[int, ScannedDrive]) -> frozenset[int]:
    """Pools in which nobody can have written since the copy: there all copies must be equal."""
    seen: dict[int, int] = {}
    for drive in scanned.values():
        for volume in drive.volumes:
            seen[volume.volume] = max(seen.get(volume.volume, 0), volume.generation)
    known = {v.id: v for v in backup.volumes}
    unclean = {v.pool for v in backup.volumes if not v.clean or seen.get(v.id, 0) > v.generation}
    # One that the store does not know may lie in any of them.
    return frozenset() if seen.keys() - known.keys() else frozenset(backup.pools) - unclean


def _counters(
    backup: Backup, scanned: Mapping[int, ScannedDrive], volumes: VolumePlan
) -> dict[str, int]:
    """Next free ids: above every one in the store or on a drive."""
    objects = [volumes.highest_id]
    for drive in scanned.values():
        objects += [*drive.frozen, *drive.freed]
    pools = [p.pool for d in scanned.values() for p in d.pgs]
    counters = {
        "object": max(objects) + 1,
        "order": max([0, *(o.id for o in volumes.orders)]) + 1,
        "drive": max([0, *backup.drives, *scanned]) + 1,
        "pool": max([0, *backup.pools, *pools]) + 1,
    }
    raised = {k: max(v, backup.counters.get(k, 1)) for k, v in counters.items()}
    raised["object"] += OBJECT_GAP
    raised["drive"] += DRIVE_GAP
    return {**backup.counters, **raised}
