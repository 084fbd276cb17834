"""A contradiction in what clients saw of a block, and how to say it to a person."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tests.e2e.nemesis.history import ALWAYS, DAMAGED, NEVER, ZERO, Op, Verb, writer_of

_DONE: Final = {Verb.WRITE: "wrote", Verb.TRIM: "trimmed to", Verb.READ: "read"}


@dataclass(frozen=True, slots=True)
class Offence:
    """Operations of one block that cannot all be true, in order of their starts."""

    what: str
    ops: tuple[Op, ...]

    @property
    def cost(self) -> tuple[int, float]:
        """How long it takes to explain: operations, then seconds from first to last start."""
        starts = [op.start for op in self.ops if op.start != ALWAYS]
        return len(self.ops), max(starts, default=0.0) - min(starts, default=0.0)

    def words(self, volume: str, block: int, origin: float = 0.0) -> str:
        """The whole report; times are told from ``origin`` on."""
        lines = [f"volume {volume}, block {block}: {self.what}"]
        return "\n".join(lines + [f"  {op_words(op, origin)}" for op in self.ops])


def op_words(op: Op, origin: float = 0.0) -> str:
    """One operation as a sentence."""
    if op.verb == Verb.WRITE and op.client == 0:
        since = "from the first" if op.start == ALWAYS else f"settled at {_time(op.start, origin)}"
        return f"{value_words(op.value)}, {since}"
    who = f"client {op.client} (attachment {op.attach}, generation {op.generation})"
    when = f"{_time(op.start, origin)} to {_time(op.end, origin)}"
    unknown = ", outcome unknown" if op.end == NEVER else ""
    return f"{when}: {who} {_DONE[Verb(op.verb)]} {value_words(op.value)}{unknown}"


def value_words(value: int) -> str:
    """Name a value."""
    if value == ZERO:
        return "zeros"
    if value == DAMAGED:
        return "damaged bytes"
    client, count = writer_of(value)
    return f"write {count} of client {client}"


def _time(at: float, origin: float) -> str:
    if at == NEVER:
        return "no known end"
    return "the first" if at == ALWAYS else f"{at - origin:+.6f} s"
