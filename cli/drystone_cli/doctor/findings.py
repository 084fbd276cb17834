"""What a check found, for people and programs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad it is. ``unknown``: it could not be looked at, as it needs root or a tool."""

    OK = "ok"
    UNKNOWN = "unknown"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check of one node; ``node`` is empty for what belongs to the whole cluster."""

    check: str
    level: Level
    message: str
    todo: str = ""
    node: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self) | {"level": self.level.value}


def ok(check: str, message: str, node: str = "") -> Finding:
    """Nothing to do."""
    return Finding(check, Level.OK, message, node=node)


def warning(check: str, message: str, todo: str, node: str = "") -> Finding:
    """It works, but not as well as it could, or not for long."""
    return Finding(check, Level.WARNING, message, todo, node)


def problem(check: str, message: str, todo: str, node: str = "") -> Finding:
    """It does not work."""
    return Finding(check, Level.PROBLEM, message, todo, node)


def unknown(check: str, message: str, node: str = "") -> Finding:
    """It could not be looked at."""
    return Finding(check, Level.UNKNOWN, message, node=node)


def healthy(findings: Iterable[Finding]) -> bool:
    """Whether nothing is a problem."""
    return all(finding.level is not Level.PROBLEM for finding in findings)


def answer(findings: Sequence[Finding]) -> dict[str, Any]:
    """Findings for programs."""
    return {"healthy": healthy(findings), "findings": [f.as_dict() for f in findings]}
