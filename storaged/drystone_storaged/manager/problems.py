"""What is wrong, in a form for people and programs; ``issues`` finds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final


class Severity(StrEnum):
    """Critical: somebody waits, or what fails now is not replaced."""

    CRITICAL = "critical"
    WARNING = "warning"


CODES: Final = frozenset({
    "record_unreadable", "foreign_keys",
    "pgs_unavailable", "last_copies_closed", "writes_stalled", "pgs_degraded", "pgs_resyncing",
    "node_away", "node_in_maintenance", "maintenance_overdue", "beacon_away", "not_voting",
    "client_away", "path_broken", "claimed_twice",
    "no_drives", "device_refused", "drive_failed", "drive_refused", "drive_down", "drive_slow",
    "drive_ejected", "drive_full",
    "bad_blocks", "copy_stuck",
    "recreation_held", "no_other_domain", "evacuation_stuck",
    "copies_differ", "scrub_overdue",
    "pool_narrow", "copies_on_one_node", "copies_share_node",
})  # fmt: skip
"""Published: programs match on them, `docs/operations.md` explains each."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    ``text`` says what, ``todo`` what a person does, ``doing`` what the cluster does meanwhile.
    ``since_s`` is wall clock; ``at_least``: it may be wrong for longer, nobody looked before.
    """

    code: str
    severity: Severity
    text: str
    todo: str
    doing: str
    objects: tuple[str, ...] = ()
    since_s: int | None = None
    at_least: bool = False

    @property
    def line(self) -> str:
        """One sentence: what, and what to do."""
        # A reason has a colon of its own; a second one would read as part of it.
        return f"{self.text}{'; ' if ': ' in self.text else ': '}{self.todo}"

    @property
    def same(self) -> tuple[str, tuple[str, ...]]:
        """What makes it the same one a moment later: figures in its text change."""
        return self.code, self.objects

    def as_json(self) -> dict[str, Any]:
        """As REST shows it."""
        return {
            "code": self.code,
            "severity": self.severity.value,
            "text": self.text,
            "since_s": self.since_s,
            "at_least": self.at_least,
            "doing": self.doing,
            "todo": self.todo,
            "objects": list(self.objects),
        }


class SinceTracker:
    """Since when each problem is there, as far as this leader saw it.

    Who looks now and then sees when one comes. What is there at the first look may be older.
    """

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._first: dict[tuple[str, tuple[str, ...]], tuple[int, bool]] | None = None

    def dated(self, found: Sequence[Problem]) -> list[Problem]:
        """The same with their beginning; those that are gone are forgotten."""
        now = int(self._wall())
        known, first_look = self._first or {}, self._first is None
        self._first = {each.same: known.get(each.same, (now, first_look)) for each in found}
        return [self._with(each, *self._first[each.same]) for each in found]

    @staticmethod
    def _with(problem: Problem, seen_s: int, at_least: bool) -> Problem:
        if problem.since_s is not None:
            return problem  # the records say it
        return replace(problem, since_s=seen_s, at_least=at_least)

    def clear(self) -> None:
        """Another one led, or nobody: what is found next may be older."""
        self._first = None


def health(found: Iterable[Problem]) -> str:
    """One word for all of them."""
    worst = {each.severity for each in found}
    if Severity.CRITICAL in worst:
        return "critical"
    return "warning" if worst else "ok"
