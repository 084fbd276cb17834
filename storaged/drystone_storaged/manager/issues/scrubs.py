"""Copies that differ, and drives and copies that nobody looked at for too long."""

from __future__ import annotations

from collections.abc import Iterator

from drystone_storaged.cluster.records import Pool, Scrubbed
from drystone_storaged.manager.issues.look import Moment, moment, names
from drystone_storaged.manager.problems import Problem, Severity
from drystone_storaged.manager.scrub_plan import overdue


def of_differences(at: Moment) -> Iterator[Problem]:
    """Pools with groups whose copies held different stable content when they were compared last."""
    for number, record in sorted(at.seen.scrubbed.pools.items()):
        pool = at.state.pools.get(number)
        if pool is None or not record.divergent:
            continue
        yield Problem(
            "copies_differ",
            Severity.CRITICAL,
            f"{record.divergent} blocks of pool {pool.name} differ between copies that are in "
            f"sync, as of {moment(record.done_s)}; the first: {_first(record, pool)}"
            f"{_not_compared(record.skipped)}",
            "see docs/runbooks/copies-differ.md before anything is restarted or replaced",
            "nothing is changed: it cannot tell which copy is right, and reads may give either",
            (f"pool {pool.name}",),
        )


def _first(record: Scrubbed, pool: Pool) -> str:
    if record.examples or not record.differing:
        return "; ".join(record.examples[:1])
    return f"group {pool.name}/{record.differing[0].pg}"


def _not_compared(skipped: int) -> str:
    """Groups that are being repaired are among these: they are counted as they were found."""
    if not skipped:
        return ""
    return f"; {skipped} groups could not be compared, what was found there before counts still"


def of_scrubs(at: Moment) -> Iterator[Problem]:
    """What was not looked at for two periods."""
    late = overdue(at.state, at.seen.scrubbed, at.seen.now_s)
    drives = [d for n in sorted(late.drives) if (d := at.state.drives.get(n)) is not None]
    pools = [at.state.pools[n] for n in sorted(late.pools)]
    if not drives and not pools:
        return
    what = []
    if drives:
        shown = names([f"drive {d.id} on {d.node_name}" for d in drives])
        what.append(f"{shown} were not read back for {max(late.drives.values())} days")
    if pools:
        shown = names([pool.name for pool in pools])
        days = max(late.pools.values())
        what.append(f"copies of pool {shown} were not compared for {days} days")
    yield Problem(
        "scrub_overdue",
        Severity.WARNING,
        " and ".join(what),
        "bring back what is away (`drystone status`), or see why: `drystone task list`; "
        "`drystone drive scrub DRIVE` and `drystone pool compare POOL` do it now",
        "it begins when every copy of the pool is there and nobody works on a node",
        (*(f"drive {d.id}" for d in drives), *(f"pool {pool.name}" for pool in pools)),
    )
