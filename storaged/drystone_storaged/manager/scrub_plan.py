"""Which drives are to be read back, and which pools' copies to be compared, now.

Pure: everything comes from the map, from what was recorded of earlier scrubs, and from the clock
that is passed in; a new leader goes on where the old one was.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final

from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.records import Drive, DriveState, Node, Pool, Scrubbed

DAY_S: Final = 86_400
EARLY: Final = 0.25
"""By so much of the period some begin earlier than others, so that they do not come together."""
OVERDUE: Final = 2
"""Periods after which it is a problem: one that a failure held up comes within the second."""
HASH: Final = 2_654_435_761  # Knuth's multiplicative hash: neighbours come at different times

Records = Mapping[int, Scrubbed]


@dataclass(frozen=True, slots=True)
class ScrubRecords:
    """How the last scrub of each drive, and the last comparison of each pool, ended."""

    drives: Records = field(default_factory=dict)
    pools: Records = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Due:
    """What is to begin now."""

    drives: tuple[Drive, ...] = ()
    pool: Pool | None = None


@dataclass(frozen=True, slots=True)
class Late:
    """What was not done for two periods, with the days since."""

    drives: Mapping[int, int]
    pools: Mapping[int, int]


def share(number: int) -> float:
    """0 to 1, always the same for one drive or pool."""
    return (number * HASH % 2**32) / 2**32


def due_s(record: Scrubbed, days: int) -> float:
    """When the next one begins; the first ones of a new cluster are spread over a period."""
    period = days * DAY_S
    if not record.done_s:
        return record.since_s + period * share(record.id)
    return record.done_s + period * (1 - EARLY * share(record.id))


def periods(state: MapState) -> dict[int, int]:
    """Days by drive, the shortest of its pools'; drives without any are left out."""
    found: dict[int, int] = {}
    for pool in state.pools.values():
        if not pool.scrub_days or pool.id in state.unreadable_pools:
            continue
        for drive in _members(state, pool):
            found[drive] = min(found.get(drive, pool.scrub_days), pool.scrub_days)
    return found


def _members(state: MapState, pool: Pool) -> set[int]:
    return {drive for record in state.known_pgs(pool.id).values() for drive in record.insync}


def calm(state: MapState, pool: Pool) -> bool:
    """Whether every group of a pool has all its copies, and none is being made."""
    up = {d.id for d in state.drives.values() if d.state is DriveState.UP}
    return pool.id not in state.unreadable_pools and all(
        not record.joining and len(up.intersection(record.insync)) >= pool.width
        for record in state.known_pgs(pool.id).values()
    )


def plan(
    state: MapState,
    nodes: Mapping[str, Node],
    records: ScrubRecords,
    running: tuple[Collection[int], Collection[int]],
    now_s: float,
) -> Due:
    """``running``: drives that are being scrubbed, pools that are being compared.

    One drive of a failure unit (its fault set, else its node) at a time, and none of a pool that
    misses a copy: a bad block is healed from the others, and what is copied needs the disks.
    """
    scrubs, compares = records.drives, records.pools
    restless = [pool for pool in state.pools.values() if not calm(state, pool)]
    waiting = {drive for pool in restless for drive in _members(state, pool)}
    days = periods(state)
    busy = {_unit(state.drives[n], nodes) for n in running[0] if n in state.drives}
    chosen = []
    late = {n: due_s(scrubs[n], days[n]) for n in days if n in scrubs}
    for number in sorted(late, key=lambda n: (late[n], n)):
        drive = state.drives.get(number)
        if drive is None or late[number] > now_s or number in waiting:
            continue
        unit = _unit(drive, nodes)
        if drive.state is DriveState.UP and not drive.evacuating and unit not in busy:
            busy.add(unit)
            chosen.append(drive)
    return Due(tuple(chosen), _pool(state, restless, compares, running[1], now_s))


def _pool(
    state: MapState,
    restless: Collection[Pool],
    compares: Records,
    running: Collection[int],
    now_s: float,
) -> Pool | None:
    """One at a time: a comparison concerns every drive of its pool."""
    if running:
        return None
    late = [
        (due_s(compares[pool.id], pool.scrub_days), pool.id)
        for pool in state.pools.values()
        if pool.scrub_days and pool.id in compares and pool not in restless
    ]
    return next((state.pools[n] for at, n in sorted(late) if at <= now_s), None)


def overdue(state: MapState, records: ScrubRecords, now_s: float) -> Late:
    """What was not done for two periods."""
    days = periods(state)
    drives = {n: _late_days(records.drives.get(n), days[n], now_s) for n in days}
    pools = {
        pool.id: _late_days(records.pools.get(pool.id), pool.scrub_days, now_s)
        for pool in state.pools.values()
        if pool.scrub_days
    }
    return Late(
        {n: late for n, late in drives.items() if late},
        {n: late for n, late in pools.items() if late},
    )


def _late_days(record: Scrubbed | None, days: int, now_s: float) -> int:
    if record is None:
        return 0  # it is noted as new by the next look
    past_s = now_s - (record.done_s or record.since_s)
    return int(past_s / DAY_S) if past_s >= OVERDUE * days * DAY_S else 0


def _unit(drive: Drive, nodes: Mapping[str, Node]) -> str:
    node = nodes.get(drive.node)
    return node.fault_set if node is not None and node.fault_set else drive.node
