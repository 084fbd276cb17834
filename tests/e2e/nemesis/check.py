"""The judge: whether all that clients saw of a volume can be true of one that keeps its word.

Each block must be a linearizable register; a change whose outcome nobody knows stays possible for
ever. Counted apart, because it is stricter: a change through a fenced attachment must have taken
effect before the fence was proven, or never, whenever its acknowledgement was read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.e2e.nemesis.history import CHANGES, NEVER, History, Op, Verb
from tests.e2e.nemesis.offence import Offence
from tests.e2e.nemesis.search import check_search
from tests.e2e.nemesis.zones import check_zones

OFFENCES_MAX: Final = 100  # of so many none is the cause of its own; the rest is counted


@dataclass(slots=True)
class Verdict:
    """What a check found. ``clean`` when nothing is wrong."""

    operations: int = 0
    blocks: int = 0
    unknown: int = 0
    wrong: int = 0
    fenced_late: int = 0
    fenced_accepted: int = 0
    offences: list[tuple[int, Offence]] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """Whether every promise was kept."""
        return not (self.wrong or self.fenced_late or self.fenced_accepted)

    def words(self, volume: str, origin: float = 0.0, most: int = 10) -> str:
        """Numbers, then the shortest offences."""
        head = (
            f"volume {volume}: {self.operations} operations on {self.blocks} blocks checked, "
            f"{self.unknown} of unknown outcome; {self.wrong} blocks wrong, {self.fenced_late} "
            f"fenced changes took effect late, {self.fenced_accepted} were accepted"
        )
        shortest = sorted(self.offences, key=lambda each: each[1].cost)[:most]
        return "\n".join([head, *(each.words(volume, block, origin) for block, each in shortest)])


def check(history: History) -> Verdict:
    """Judge every block."""
    verdict = Verdict(blocks=len(history.blocks))
    for block, ops in history.blocks.items():
        verdict.operations += len(ops)
        verdict.unknown += sum(op.end == NEVER for op in ops)
        offence = check_block(ops)
        if offence is not None:
            verdict.wrong += 1
            _note(verdict, block, offence)
        elif history.fences:
            _check_fences(verdict, block, ops, history.fences)
    return verdict


def check_block(ops: Sequence[Op]) -> Offence | None:
    """Judge one block; None is a good one. Exactly one write must be of what stood there first."""
    if any(op.verb == Verb.TRIM for op in ops):
        return check_search(ops)
    return check_zones(ops)


def _note(verdict: Verdict, block: int, offence: Offence) -> None:
    if len(verdict.offences) < OFFENCES_MAX:
        verdict.offences.append((block, offence))


def _check_fences(
    verdict: Verdict, block: int, ops: Sequence[Op], fences: Mapping[int, float]
) -> None:
    """Look for changes of fenced attachments after their fence. The block is known to be good."""
    seen = {op.value for op in ops if op.verb == Verb.READ}
    in_time, late = list(ops), 0
    for number, op in enumerate(ops):
        fence = fences.get(op.attach, NEVER)
        if fence == NEVER or op.verb not in CHANGES:
            continue
        if op.start > fence and not op.unknown:
            verdict.fenced_accepted += 1
            _note(verdict, block, Offence("a change was accepted after its fence", (op,)))
        elif op.end > fence and (op.value in seen or not op.unknown):
            found = _late(ops, op, fence)
            if found is not None:
                late += 1
                _note(verdict, block, found)
            elif op.verb == Verb.WRITE or not op.unknown:  # such a trim may never have been
                in_time[number] = op._replace(end=fence)
    if not late:
        # Each for itself may have come before its fence; may all of them?
        together = check_block(in_time)
        if together is not None:
            late = 1
            _note(verdict, block, Offence(_LATE, together.ops))
    verdict.fenced_late += late


def _late(ops: Sequence[Op], change: Op, fence: float) -> Offence | None:
    """Whether the block is good only if this took effect after the fence."""
    if change.unknown and check_block([op for op in ops if op is not change]) is None:
        return None  # another change wrote the same: this one may never have been
    if change.start > fence:
        reads = (op for op in ops if op.verb == Verb.READ and op.value == change.value)
        return Offence(_LATE, (change, min(reads, key=lambda op: op.end)))
    found = check_block([op._replace(end=fence) if op is change else op for op in ops])
    return None if found is None else Offence(f"{_LATE} at {fence:.6f} s", found.ops)


_LATE: Final = "a change of a fenced attachment took effect after the fence was proven"
