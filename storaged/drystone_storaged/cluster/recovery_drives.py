"""Drives and nodes of a recovery: every drive that may hold something is scanned and believed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from drystone_storaged.cluster.records import Drive, DriveState, Node
from drystone_storaged.cluster.recovery_inputs import Backup, Inputs
from drystone_storaged.cluster.scans import ScannedDrive

LOST: Final = "left out of a recovery of the metadata store"


def check_scans(inputs: Inputs) -> list[str]:
    """The files together: of this cluster, each node once, each drive once."""
    cluster = inputs.backup.cluster
    found = [
        f"the scan of {s.node} is of cluster {s.cluster}, this store is of {cluster}"
        for s in inputs.scans
        if s.cluster != cluster
    ]
    if not inputs.scans:
        found.append("no scan is given: nobody but the drives knows who is in sync")
    nodes = [s.node_uuid for s in inputs.scans]
    found += [
        f"the scan of {s.node} is given twice" for s in inputs.scans if nodes.count(s.node_uuid) > 1
    ][:1]
    uuids = [d.uuid for s in inputs.scans for d in s.drives]
    found += [
        f"drive {uuid} is in two scans: one of the two is a copy of the other"
        for uuid in sorted({u for u in uuids if uuids.count(u) > 1})
    ]
    return found + _check_numbers(inputs)


def _check_numbers(inputs: Inputs) -> list[str]:
    """One number on two drives: given twice by a store that went back without a recovery."""
    places: dict[int, dict[str, str]] = {}
    for scan in inputs.scans:
        for drive in scan.drives:
            if _in_use(inputs, drive):
                place = f"{drive.path} of {scan.node} ({drive.uuid})"
                places.setdefault(drive.number, {}).setdefault(drive.uuid, place)
    return [
        f"number {number} is on two drives: {', '.join(found.values())}; nobody can tell which of "
        "them the copies of data name: take out the one that does not belong, and scan again"
        for number, found in sorted(places.items())
        if len(found) > 1
    ]


def _in_use(inputs: Inputs, drive: ScannedDrive) -> bool:
    """Whether a drive is of this cluster and was ever in use."""
    return bool(drive.number) and drive.cluster == inputs.backup.cluster


def known_drives(inputs: Inputs) -> dict[int, ScannedDrive]:
    """Every scanned drive of this cluster that was ever in use, by its number."""
    found: dict[int, ScannedDrive] = {}
    for scan in inputs.scans:
        for drive in scan.drives:
            if _in_use(inputs, drive):
                # Of two with one number either: `check_scans` refuses them, and nothing is written.
                found[drive.number] = drive
    return found


def check_drives(inputs: Inputs, scanned: Mapping[int, ScannedDrive]) -> list[str]:
    """Every drive that may hold something is scanned and believed, or left out by name."""
    backup, without = inputs.backup, inputs.without
    found: list[str] = []
    for number, drive in sorted(backup.drives.items()):
        if drive.state is DriveState.GONE or number in without or number in scanned:
            continue
        found.append(
            f"drive {number} of {drive.node_name or 'no node'} is not scanned: it may hold the "
            f"only newest copy of something; scan it, or give it up (--without {number})"
        )
    for number, one in sorted(scanned.items()):
        record = backup.drives.get(number)
        if record is not None and record.uuid != one.uuid:
            found.append(f"drive {number} is {one.uuid} on {one.path}, the store knows another")
        elif number not in without:
            found += _check_one(number, one, record)
    unknown = sorted(n for n in without if n not in backup.drives and n not in scanned)
    found += [f"there is no drive {n} to be left out" for n in unknown]
    return found + _check_unread(inputs)


def _check_one(number: int, one: ScannedDrive, record: Drive | None) -> list[str]:
    if record is not None and record.state is DriveState.GONE:
        return []  # forgotten: what it holds counts nowhere, as before
    if not one.proven:
        what = one.suspect or "values of its log do not decode: " + ", ".join(one.damaged)
        why = f"cannot be believed ({what}): what only it holds would be lost"
        return [f"drive {number} ({one.path}) {why}; give it up (--without {number})"]
    if record is not None and record.serial != one.serial:
        why = f"lies on another device ({one.serial}) than the cluster knows ({record.serial})"
        cure = f"it is a copy; scan the original, or give it up (--without {number})"
        return [f"drive {number} ({one.path}) {why}: {cure}"]
    return []


def _check_unread(inputs: Inputs) -> list[str]:
    by_uuid = {d.uuid: d for d in inputs.backup.drives.values()}
    found: list[str] = []
    for scan in inputs.scans:
        for unread in scan.unread:
            drive = by_uuid.get(unread.uuid)
            if drive is None:
                found.append(
                    f"{unread.path} of {scan.node} could not be read ({unread.reason}), and the "
                    "store does not know it: cure that and scan again, or take it out of its node"
                )
            elif drive.state is not DriveState.GONE and drive.id not in inputs.without:
                found.append(
                    f"drive {drive.id} of {scan.node} could not be read ({unread.reason}): cure "
                    f"that and scan again, or give it up (--without {drive.id})"
                )
    return found


def any_given_up(inputs: Inputs) -> bool:
    """Whether what drives held is lost, by this recovery or by one before that was cut short."""
    lost = (d.state is DriveState.GONE and d.reason == LOST for d in inputs.backup.drives.values())
    return bool(inputs.without) or any(lost)


def unknown_pools(backup: Backup, live: Mapping[int, ScannedDrive]) -> list[str]:
    """Pools that the store lost: nobody can say how their data is spread."""
    pools = sorted({p.pool for d in live.values() for p in d.pgs} - set(backup.pools))
    return [
        f"pool {pool} is on the drives and not in this store: it was made after the copy, and how "
        "its data is spread is recorded nowhere else; take a newer copy"
        for pool in pools
    ]


def recorded_drives(inputs: Inputs, live: Mapping[int, ScannedDrive]) -> dict[int, Drive]:
    """Records of the drives as they are now, opened by the nonce that is on them.

    They stand as after a death of everything at once: nobody is dropped for coming back later.
    """
    nodes = {d.uuid: s for s in inputs.scans for d in s.drives}
    changed: dict[int, Drive] = {}
    for number, one in live.items():
        old = inputs.backup.drives.get(number)
        if old is not None and old.state is DriveState.GONE:
            continue
        scan = nodes[one.uuid]
        base = old or Drive(
            number, one.uuid, scan.node_uuid, scan.node, one.serial, one.capacity, one.addr,
            one.nonce, weight=one.capacity / 2**40, drive_class=one.drive_class,
        )  # fmt: skip
        changed[number] = replace(
            base, node=scan.node_uuid, node_name=scan.node, addr=one.addr, capacity=one.capacity,
            nonce=one.nonce, previous_nonce=0, granted_nonces=(), state=DriveState.UP, reason="",
            proven=True, ended=False, device=one.device,
        )  # fmt: skip
    for number, old in inputs.backup.drives.items():
        if number in inputs.without and old.state is not DriveState.GONE:
            changed[number] = replace(old, state=DriveState.GONE, reason=LOST)
    for number in inputs.without - set(inputs.backup.drives):
        one_or_none = known_drives(inputs).get(number)
        if one_or_none is not None:
            scan = nodes[one_or_none.uuid]
            changed[number] = Drive(
                number, one_or_none.uuid, scan.node_uuid, scan.node, one_or_none.serial,
                one_or_none.capacity, one_or_none.addr, one_or_none.nonce, state=DriveState.GONE,
                reason=LOST,
            )  # fmt: skip
    return changed


def new_nodes(inputs: Inputs) -> dict[str, Node]:
    """Storage nodes that came after the copy was made."""
    return {
        s.node_uuid: Node(s.node, s.node_uuid)
        for s in inputs.scans
        if s.node_uuid not in inputs.backup.nodes
    }


def drive_notes(inputs: Inputs) -> list[str]:
    """What a person should know of drives."""
    known = inputs.backup.drives
    notes = [
        f"drive {d.number} of {s.node} came after the copy: it is recorded again"
        + (f"; repeat `drystone drive add {s.node} {d.device}`" if d.device else "")
        for s in inputs.scans
        for d in s.drives
        if d.number and d.number not in known and d.number not in inputs.without
    ]
    notes += [
        f"drive {number} is given up: what only it holds is lost, and it returns only wiped"
        for number in sorted(inputs.without)
    ]
    return notes
