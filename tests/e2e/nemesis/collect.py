"""From a base and the journals after it to a history; and from a judged one to the next base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.nemesis.base import Base, Covered, Settled, read_base, write_base
from tests.e2e.nemesis.history import CHANGES, NEVER, ZERO, History, Op, Verb, writer_of
from tests.e2e.nemesis.journal import JournalDamagedError, Kind, Record, records, segments
from tests.e2e.nemesis.search import run

BOOT_GAP_S: Final = 1.0
"""Between the last time of a boot and the first of the next: any more than nothing will do."""


class NotQuietError(Exception):
    """A base can be made only of blocks that were read while nothing was under way."""


@dataclass(frozen=True, slots=True)
class Part:
    """One segment, read; ``wall`` is the clock time of its beginning."""

    client: int
    segment: int
    boot: int
    wall: float
    records: list[Record]


@dataclass(frozen=True, slots=True)
class Collected:
    """The history of a volume since its base, in the time of the latest boot."""

    folder: Path
    boot: int
    blocks: dict[int, Settled]
    clients: dict[int, Covered]
    history: History


def collect(folder: Path) -> Collected:
    """Read the base and every segment after it."""
    base = read_base(folder)
    parts = _parts(folder, base)
    shifts = _shifts(base, parts)
    settled = {block: _shifted(each, shifts[base.boot]) for block, each in base.blocks.items()}
    fences = {attach: at + shifts[base.boot] for attach, at in base.fences.items()}
    found = Collected(
        folder,
        max(parts, key=lambda part: part.wall).boot if parts else base.boot,
        settled,
        dict(base.clients),
        History(fences=fences),
    )
    for part in parts:
        _take(found, fences, part, shifts[part.boot])
    return found


def _parts(folder: Path, base: Base) -> list[Part]:
    parts = []
    for each in segments(folder):
        if each.number <= base.clients.get(each.client, Covered()).segment:
            continue
        read = list(records(each.path))
        if read and read[0].kind != Kind.START:
            raise JournalDamagedError(f"{each.path} does not begin with a start")
        if read:  # else killed before its first record
            parts.append(Part(each.client, each.number, read[0].number, read[0].start, read[1:]))
    return parts


def _shifts(base: Base, parts: Sequence[Part]) -> dict[int, float]:
    """What to add to the times of each boot: the latest keeps its own, older ones lie before it."""
    times: dict[int, list[float]] = {base.boot: [each.at for each in base.blocks.values()]}
    times[base.boot] += base.fences.values()
    for part in sorted(parts, key=lambda part: part.wall):
        known = times.setdefault(part.boot, [])
        known += [each.start for each in part.records] + [each.end for each in part.records]
    shifts: dict[int, float] = {}
    begins: float | None = None
    for number, known in reversed(times.items()):
        low, high = min(known, default=0.0), max(known, default=0.0)
        shifts[number] = 0.0 if begins is None else begins - BOOT_GAP_S - high
        begins = low + shifts[number]
    return shifts


def _shifted(settled: Settled, shift: float) -> Settled:
    if not shift:
        return settled
    pending = tuple(op._replace(start=op.start + shift) for op in settled.pending)
    return Settled(settled.value, settled.at + shift, pending)


def _take(found: Collected, fences: dict[int, float], part: Part, shift: float) -> None:
    """Add what a segment tells."""
    count = 0
    open_change: Record | None = None
    for record in part.records:
        if record.verb in CHANGES:
            if record.verb == Verb.WRITE:
                count = max(count, writer_of(record.number)[1])
            open_change = record if record.kind == Kind.INVOKE else None
            if open_change is None:
                _add(found, part.client, record, shift)
        elif record.verb == Verb.READ and record.kind == Kind.OK:
            _add(found, part.client, record, shift)
        elif record.verb == Verb.FENCE:
            fences[record.attach] = record.start + shift
    if open_change is not None:
        _add(found, part.client, open_change, shift)
    if part.records:
        known = found.clients.get(part.client, Covered())
        found.clients[part.client] = Covered(part.segment, max(known.count, count))


def _add(found: Collected, client: int, record: Record, shift: float) -> None:
    """Add it to each of its blocks; the first of a block comes after what is settled of it."""
    kind, verb, count, first, number, start, end, attach, generation = record
    value = ZERO if verb == Verb.TRIM else number
    until = end + shift if kind == Kind.OK else NEVER
    op = Op(verb, start + shift, until, value, client, attach, generation)
    blocks = found.history.blocks
    for block in range(first, first + count):
        ops = blocks.get(block)
        if ops is None:
            blocks[block] = ops = found.blocks.get(block, _ZEROS).ops()
        ops.append(op)


_ZEROS: Final = Settled()


def compact(found: Collected) -> Base:
    """Make the next base of a history that was judged good, and remove what it covers.

    Every connection must have begun a new segment before it was collected, with nothing under way.
    """
    blocks = dict(found.blocks)
    for block, ops in found.history.blocks.items():
        blocks[block] = settle(block, ops)
    base = Base(found.boot, blocks, found.clients, dict(found.history.fences))
    write_base(found.folder, base)
    for each in segments(found.folder):
        if each.number <= base.clients.get(each.client, Covered()).segment:
            each.path.unlink()
    return base


def settle(block: int, ops: Sequence[Op]) -> Settled:
    """What the last read saw, and what nobody has seen yet."""
    reads = [op for op in ops if op.verb == Verb.READ]
    last = max(reads, key=lambda op: op.start, default=None)
    if last is None or any(last.start < op.end < NEVER for op in ops if op is not last):
        raise NotQuietError(f"block {block} was not read after everything else on it had ended")
    if any(op.verb == Verb.TRIM for op in ops):
        # Which of several trims a read of zeros saw is not known: any that may be left is kept.
        states = run(ops).states
        left = [
            n for n, op in enumerate(ops) if op.unknown and any(n not in s.done for s in states)
        ]
        return Settled(last.value, last.start, tuple(ops[n] for n in left))
    seen = {op.value for op in reads}
    pending = tuple(op for op in ops if op.unknown and op.value not in seen)
    return Settled(last.value, last.start, pending)
