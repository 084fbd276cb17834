"""Small histories of one block: made by a register, made at random, judged by brute force."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

from tests.e2e.nemesis.history import NEVER, ZERO, Op, Verb, first_value

NO_FENCES: Mapping[int, float] = {}


def write(value: int, start: float, end: float = NEVER, attach: int = 1) -> Op:
    return Op(Verb.WRITE, start, end, value, 1, attach, attach)


def trim(start: float, end: float = NEVER, attach: int = 1) -> Op:
    return Op(Verb.TRIM, start, end, ZERO, 1, attach, attach)


def read(value: int, start: float, end: float, attach: int = 1) -> Op:
    return Op(Verb.READ, start, end, value, 1, attach, attach)


def possible(ops: Sequence[Op], fences: Mapping[int, float] = NO_FENCES) -> bool:
    """Whether some order of the operations explains them all: every order is tried.

    An operation may come next when no other one that must still come ended before it began. With
    fences, a change took effect before the fence of its attachment or, if it may, never.
    """
    ends = [
        op.end if op.verb == Verb.READ else min(op.end, fences.get(op.attach, NEVER)) for op in ops
    ]
    must = frozenset(n for n, op in enumerate(ops) if not op.unknown)
    dead: set[tuple[frozenset[int], int]] = set()

    def follow(left: frozenset[int], value: int) -> bool:
        if not must & left:
            return True
        if (left, value) in dead:
            return False
        for n in left:
            op = ops[n]
            # What may never have been does not hold others back.
            if any(ends[o] < op.start for o in must & left) or ends[n] < op.start:
                continue
            if any(ends[n] < ops[o].start for o in range(len(ops)) if o not in left):
                continue  # too late for its fence: something that began after it came already
            if op.verb == Verb.READ and op.value != value:
                continue
            if follow(left - {n}, op.value):
                return True
        dead.add((left, value))
        return False

    return follow(frozenset(range(len(ops))), -1)


def times(least: int = 0, most: int = 9) -> st.SearchStrategy[tuple[int, int]]:
    pair = st.tuples(st.integers(least, most), st.integers(least, most))
    return pair.map(lambda both: (min(both), max(both)))


@st.composite
def any_histories(draw: st.DrawFn, *, trims: bool = False) -> list[Op]:
    """Anything at all: most of these are wrong."""
    ops: list[Op] = [first_value(ZERO)]
    changes = draw(st.integers(0, 4))
    for number in range(1, changes + 1):
        start, end = draw(times())
        until = NEVER if draw(st.booleans()) else end
        attach = draw(st.integers(1, 2))
        if trims and draw(st.booleans()):
            ops.append(trim(start, until, attach))
        else:
            ops.append(write(number, start, until, attach))
    for _ in range(draw(st.integers(0, 4))):
        start, end = draw(times())
        ops.append(read(draw(st.integers(0, changes)), start, end, draw(st.integers(1, 2))))
    return draw(st.permutations(ops))


def good_history(
    seed: int, count: int, *, begin: float = 0.0, trims: bool = False, base: int = ZERO,
    first: int = 1, unknown: float = 0.2,
) -> list[Op]:  # fmt: skip
    """What a register would show to several clients: each operation has its moment of effect."""
    rng = random.Random(seed)
    ops, value, now = [first_value(base, begin)], base, begin
    for number in range(first, first + count):
        now += rng.random()
        start, end = now - rng.random() * 3, now + rng.random() * 3
        start = max(start, begin)
        kind = rng.random()
        if kind < 0.5:
            ops.append(read(value, start, end))
            continue
        lost = rng.random() < unknown
        until = NEVER if lost else end
        change = trim(start, until) if trims and kind > 0.8 else write(number, start, until)
        ops.append(change)
        if not lost or rng.random() < 0.5:
            value = change.value
    end = max((op.end for op in ops if not op.unknown), default=begin) + 1
    ops.append(read(value, end, end + 1))
    return ops


def fenced_histories(*, trims: bool = False) -> st.SearchStrategy[list[Op]]:
    """Mostly what a register did, through two attachments; and anything at all."""

    def attached(seed: int) -> list[Op]:
        rng = random.Random(seed)
        ops = good_history(seed, 6, trims=trims, unknown=0.5)
        return [ops[0], *(op._replace(attach=rng.randint(1, 2)) for op in ops[1:])]

    return st.one_of(st.integers(0, 1 << 32).map(attached), any_histories(trims=trims))
