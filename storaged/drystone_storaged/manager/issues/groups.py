"""Placement groups that lack copies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.manager.issues.look import Moment, moment
from drystone_storaged.manager.problems import Problem, Severity


def of_groups(at: Moment) -> Iterator[Problem]:
    """Those without a copy, with too few, with one missing, and those that copy."""
    pgs, counts = at.state.known_pgs(), at.counts
    if counts["unavailable"]:
        yield _unavailable(at)
    yield from _closed(at)
    missing = {d for r in pgs.values() for d in (*r.insync, *r.target) if d in at.down}
    remedy = _lacking(at, missing)
    if counts["stalled"]:
        yield Problem(
            "writes_stalled",
            Severity.CRITICAL,
            f"{counts['stalled']} PGs have fewer in-sync copies than min_insync, writes to them "
            "wait",
            remedy,
            "reads go on; no write is lost, they go on by themselves when a copy is back",
            since_s=_since(at, lambda record: bool(record.out)),
        )
    if counts["degraded"]:
        yield Problem(
            "pgs_degraded",
            Severity.WARNING,
            f"{counts['degraded']} PGs miss a copy",
            remedy,
            "reads and writes go on with the copies that are left; what comes back copies only "
            f"what it missed{_elsewhere(at)}",
            since_s=_since(at, lambda record: bool(record.out)),
        )
    if counts["resyncing"]:
        yield Problem(
            "pgs_resyncing",
            Severity.WARNING,
            f"{counts['resyncing']} PGs are being resynced",
            "nothing to do, it ends by itself",
            _copying(at),
        )


def _unavailable(at: Moment) -> Problem:
    pgs = at.state.known_pgs()
    held = [k for k, r in pgs.items() if all(d in at.down for d in r.insync)]
    first = min(held, key=lambda ref: (ref.pool, ref.pg))
    example = f"{at.state.pools[first.pool].name}/{first.pg}"
    here = at.needed.intersection(at.down)
    remedy = at.remedy(here) or "their drives were forgotten"
    return Problem(
        "pgs_unavailable",
        Severity.CRITICAL,
        f"{at.counts['unavailable']} PGs have no in-sync copy on a drive that is up, I/O to them "
        "waits",
        f"{remedy}; only if those drives are lost for good, give "
        f"the newest data of each such group up (`drystone pool mark-lost {example} --yes`; which "
        "others: docs/runbooks/quorum-lost.md)",
        "it waits: nothing acknowledged is lost, and I/O goes on by itself with the first of "
        "those drives",
    )


def _closed(at: Moment) -> Iterator[Problem]:
    """Groups of which the last drives that are up said that they cannot serve what they hold."""
    pgs = at.state.known_pgs()
    told = {ref for held in at.seen.closed.values() for ref in held if ref in pgs}
    refs = sorted(told, key=lambda ref: (ref.pool, ref.pg))
    stuck = [
        ref
        for ref in refs
        if all(d in at.down or ref in at.seen.closed.get(d, ()) for d in pgs[ref].insync)
    ]
    if not stuck:
        return
    numbers = sorted(d for d, held in at.seen.closed.items() if not held.isdisjoint(stuck))
    drives = f"drive{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
    example = f"{at.state.pools[stuck[0].pool].name}/{stuck[0].pg}"
    yield Problem(
        "last_copies_closed",
        Severity.CRITICAL,
        f"I/O to {len(stuck)} PGs waits: {drives}, the last in sync that is up, cannot prove that "
        "nothing acknowledged is missing there",
        "start the drives that were in sync before; only if they are lost for good, stop the "
        f"server of {drives} and choose what to go on with (`drystone pool mark-lost {example} "
        "--plan`, and so on)",
        "it serves nothing of them and throws nothing away: what to go on with is for a person to "
        "decide",
        tuple(f"drive {n}" for n in numbers),
    )


def _lacking(at: Moment, missing: Collection[int]) -> str:
    """What to do about copies that are not there."""
    steps = [at.remedy(missing)] if missing else []
    short = {
        ref.pool
        for ref, r in at.state.known_pgs().items()
        if len(r.target) < at.state.pools[ref.pool].width
    }
    steps += [
        f"pool {pool.name} has an empty place: add a drive in another domain "
        f"({pool.failure_domain.value}) than its others, it is taken into use by itself"
        for pool in (at.state.pools[number] for number in sorted(short))
    ]
    return "; ".join(steps) or "resync brings them back, wait"


def _since(at: Moment, concerned: Callable[[PgRecord], bool]) -> int | None:
    """Since when the first copy that is wanted is out, as the records say."""
    times = [
        entry.since_s
        for record in at.state.known_pgs().values()
        if concerned(record)
        for entry in record.out
        if entry.drive in record.target and entry.since_s
    ]
    return min(times, default=None)


def _elsewhere(at: Moment) -> str:
    """From when on copies of what stays away are made on other drives."""
    due = [
        max(entry.since_s, _expected_s(at, entry.drive)) + pool.out_time_s
        for pool in at.state.pools.values()
        if pool.out_time_s
        for record in at.state.known_pgs(pool.id).values()
        for entry in record.out
        if entry.drive in record.target and entry.drive in at.down
    ]
    if not due:
        return ""
    if min(due) <= at.seen.now_s:
        return "; copies of what stays away are made on other drives, where there is room"
    return f"; of what stays away copies are made on other drives from {moment(min(due))} on"


def _expected_s(at: Moment, drive: int) -> int:
    record = at.seen.maintenance.get(at.state.drives[drive].node)
    return record.until_s if record else 0


def _copying(at: Moment) -> str:
    figures = [at.seen.stats.get(number) for number in at.state.drives]
    left = sum(f.resync_left for f in figures if f is not None)
    known = f", {left // 2**20} MiB are left" if left else ""
    return f"it copies what the returning drives lack{known}; I/O goes on and comes first"
