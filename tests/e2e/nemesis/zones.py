"""Whether one block behaved as a register, where no value was written twice. O(n log n).

After P. Gibbons, E. Korach, "Testing shared memories", SIAM J. Computing 26(4), 1997: all
operations with one value form a cluster, which must take effect together. Its zone lies between
the earliest end and the latest start in it. In a *forward* zone (the end comes first) the block
must hold the value from one to the other; in a *backward* zone it is enough to hold it at one
moment. So the history is linearizable exactly when forward zones do not overlap and no forward
zone covers a backward one. Operations that only touch in time count as concurrent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from tests.e2e.nemesis.history import DAMAGED, NEVER, Op, Verb
from tests.e2e.nemesis.offence import Offence


class Cluster(NamedTuple):
    """All operations with one value: the one that ended first, and the one that began last."""

    low: float
    high: float
    ends_first: Op
    begins_last: Op
    write: Op
    read: bool


def check_zones(ops: Sequence[Op]) -> Offence | None:
    """Give the shortest contradiction in these operations on one block."""
    clusters, offence = _clusters(ops)
    if offence is not None:
        return offence
    # A write that nobody knows the outcome of and nobody saw may never have been: it says nothing.
    spoke = [each for each in clusters if each.read or each.write.end != NEVER]
    forward = sorted((each for each in spoke if each.low < each.high), key=_low)
    found = _overlap(forward)
    if found is not None:
        return found
    return _covered(forward, [each for each in spoke if each.low >= each.high])


def _low(cluster: Cluster) -> float:
    return cluster.low


def _clusters(ops: Sequence[Op]) -> tuple[list[Cluster], Offence | None]:
    """Group by value; the offence is a read of what could not have been written yet."""
    writes: dict[int, Op] = {}
    reads: dict[int, list[Op]] = {}
    for op in ops:
        if op.verb != Verb.READ:
            writes[op.value] = op
        elif op.value in reads:
            reads[op.value].append(op)
        else:
            reads[op.value] = [op]
    clusters = []
    for value, write in writes.items():
        found = _cluster(write, reads.pop(value, ()))
        if isinstance(found, Offence):
            return [], found
        clusters.append(found)
    for seen in reads.values():
        first = min(seen, key=lambda op: op.end)
        if first.value == DAMAGED:
            return [], Offence("a read saw bytes that nobody ever wrote to this block", (first,))
        return [], Offence(
            "a read saw a value that was not written, or was settled to be gone before", (first,)
        )
    return clusters, None


def _cluster(write: Op, reads: Sequence[Op]) -> Cluster | Offence:
    low, high, ends_first, begins_last = write.end, write.start, write, write
    for op in reads:
        if op.end < low:
            low, ends_first = op.end, op
        if op.start > high:
            high, begins_last = op.start, op
    if low < write.start:
        return Offence("a read saw a value before its write began", (ends_first, write))
    return Cluster(low, high, ends_first, begins_last, write, bool(reads))


def _overlap(forward: Sequence[Cluster]) -> Offence | None:
    """Two values that the block had to hold at the same time."""
    best: Offence | None = None
    reach: Cluster | None = None
    for each in forward:
        if reach is not None and each.low < reach.high:
            best = _shorter(best, _contradiction(reach, each))
        if reach is None or each.high > reach.high:
            reach = each
    return best


def _covered(forward: Sequence[Cluster], backward: Sequence[Cluster]) -> Offence | None:
    """A value that the block held only while it had to hold another one."""
    best: Offence | None = None
    lows = [each.low for each in forward]
    for each in backward:
        # Forward zones do not overlap here: only the last one that begins before can cover it.
        at = bisect_left(lows, each.high) - 1
        if at >= 0 and each.low < forward[at].high:
            best = _shorter(best, _contradiction(forward[at], each))
    return best


def _contradiction(outer: Cluster, inner: Cluster) -> Offence:
    """Say what is wrong with ``outer``, which was there before ``inner`` and again after it."""
    ops = {outer.write, outer.ends_first, outer.begins_last}
    ops |= {inner.write, inner.ends_first, inner.begins_last}
    if inner.read:
        what = "a value came back that another one had replaced"
    else:
        what = "an acknowledged change is lost: a later read saw the value from before it"
    return Offence(what, tuple(sorted(ops, key=lambda op: (op.start, op.end))))


def _shorter(one: Offence | None, other: Offence) -> Offence:
    return other if one is None or other.cost < one.cost else one
