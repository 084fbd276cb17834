"""Whether one block behaved as a register, where a value was written more than once: trims.

Zones need unique values, and every trim writes zeros. So this walks through the starts and ends in
order of time and keeps every state in which the block can be (W. Wing, C. Gong 1993, with
G. Lowe's rule of 2017: an operation takes effect only when something needs it). What it costs
grows with the requests that are open at the same time, not with the length.
A change of unknown outcome matters only to the read that sees it, so it takes effect just before
that one or never; of several that write the same the earliest is taken, as they are alike by then.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tests.e2e.nemesis.history import NEVER, Op, Verb
from tests.e2e.nemesis.offence import Offence

STATES_MAX: Final = 20_000
"""Eight changes open at once make about a thousand; more states are a load not made for this."""

ROUNDS_MAX: Final = 400  # trials when an offence is made shorter: each is one walk


class TooWideError(Exception):
    """More requests for a block with trims were open at once than can be checked."""


class State(NamedTuple):
    """What the block holds, and which operations that have no end yet took effect."""

    value: int
    done: frozenset[int]


@dataclass(frozen=True, slots=True)
class Walk:
    """Either the operation at whose end no state was left, or the states at the end."""

    failed: Op | None
    states: frozenset[State]


def check_search(ops: Sequence[Op]) -> Offence | None:
    """Give a short contradiction in these operations on one block."""
    walk = run(ops)
    if walk.failed is None:
        return None
    until = walk.failed.end
    guilty = _shorten([op for op in ops if op.start <= until])
    what = "what was read and acknowledged here fits no order of these operations"
    return Offence(what, tuple(sorted(guilty, key=lambda op: (op.start, op.end))))


def run(ops: Sequence[Op]) -> Walk:
    """Walk through all of them. States name operations by their place in ``ops``."""
    events = sorted(
        event
        for number, op in enumerate(ops)
        for event in ((op.start, 0, number), (op.end, 1, number))
        if event[0] != NEVER
    )
    opened: set[int] = set()
    states = {State(_NOTHING, frozenset())}
    for _, ending, number in events:
        if not ending:
            opened.add(number)
            continue
        states = _ended(ops, states, opened, number)
        opened.discard(number)
        if not states:
            return Walk(ops[number], frozenset())
    return Walk(None, frozenset(states))


_NOTHING: Final = -1  # no value of any operation: the first one writes what stood there


def _ended(ops: Sequence[Op], states: set[State], opened: set[int], number: int) -> set[State]:
    """Give the states in which this operation took effect before its end, and forget it there."""
    todo, seen, found = list(states), set(states), set()
    while todo:
        state = todo.pop()
        if number in state.done:
            found.add(State(state.value, state.done - {number}))
            continue
        for following in _steps(ops, state, opened):
            if following not in seen:
                seen.add(following)
                todo.append(following)
        if len(seen) > STATES_MAX:
            raise TooWideError(
                f"{len(opened)} requests for one block with trims were open at once: "
                "let fewer connections work on blocks that are trimmed"
            )
    return found


def _steps(ops: Sequence[Op], state: State, opened: set[int]) -> Iterable[State]:
    """States after one more of the open operations took effect."""
    for number in opened - state.done:
        op = ops[number]
        if op.end == NEVER:
            continue
        if op.verb != Verb.READ:
            yield State(op.value, state.done | {number})
        elif op.value == state.value:
            yield State(state.value, state.done | {number})
        else:
            lost = _unknown(ops, opened - state.done, op.value)
            if lost is not None:
                yield State(op.value, state.done | {number, lost})


def _unknown(ops: Sequence[Op], among: set[int], value: int) -> int | None:
    alike = (n for n in among if ops[n].end == NEVER and ops[n].value == value)
    return min(alike, key=lambda n: (ops[n].start, n), default=None)


def _shorten(ops: list[Op]) -> list[Op]:
    """Leave away what the contradiction does not need; a change that was read always stays."""
    rounds, size = ROUNDS_MAX, len(ops) // 2
    while size and rounds:
        before, at = len(ops), 0
        while at < len(ops) and rounds:
            rounds -= 1
            fewer = ops[:at] + ops[at + size :]
            if _honest(fewer, ops) and run(fewer).failed is not None:
                ops = fewer
            else:
                at += size
        # Singly again as long as it helps: a change may go once its last read went.
        size = 1 if size == 1 and len(ops) < before else size // 2
    return ops


def _honest(fewer: Sequence[Op], ops: Sequence[Op]) -> bool:
    """Whether no read lost a change that it may have seen."""
    read = {op.value for op in fewer if op.verb == Verb.READ}
    kept = set(fewer)
    return all(op in kept for op in ops if op.verb != Verb.READ and op.value in read)
