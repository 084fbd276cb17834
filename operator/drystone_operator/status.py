"""Conditions in the metav1 shape, and the one rule about their times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

MESSAGE_CHARS_MAX: Final = 1024  # metav1 allows 32768; a person reads a sentence or two

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Condition:
    """What is wanted to be said; the time comes with the writing."""

    type: str
    status: bool | None
    reason: str
    message: str

    @property
    def text(self) -> str:
        """`True`, `False` or `Unknown`."""
        return "Unknown" if self.status is None else str(self.status)

    def __str__(self) -> str:
        """One line, for plans and logs."""
        return f"{self.type}={self.text} {self.reason}: {self.message}"


def merge(
    old: Sequence[Mapping[str, Any]], new: Iterable[Condition], generation: int, now: str
) -> list[Json]:
    """The conditions to write: a time changes only with its status; others' are kept."""
    before = {c.get("type"): c for c in old}
    written: dict[str, Json] = {}
    for condition in new:
        was = before.get(condition.type)
        same = was is not None and was.get("status") == condition.text
        written[condition.type] = {
            "type": condition.type,
            "status": condition.text,
            "reason": condition.reason,
            "message": condition.message[:MESSAGE_CHARS_MAX],
            "observedGeneration": generation,
            "lastTransitionTime": was.get("lastTransitionTime", now) if same and was else now,
        }
    return [written[name] for name in sorted(written)]


def transitions(
    old: Sequence[Mapping[str, Any]], new: Iterable[Condition]
) -> tuple[Condition, ...]:
    """The conditions whose status or reason is another one than before: worth an event."""
    before = {c.get("type"): (c.get("status"), c.get("reason")) for c in old}
    return tuple(c for c in new if c.type in before and before[c.type] != (c.text, c.reason))


def find(conditions: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    """One condition of an object, by type."""
    return next((c for c in conditions if c.get("type") == name), None)
