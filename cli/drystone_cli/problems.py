"""Problems of `drystone status`, for people. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

STEPS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def length(seconds: float) -> str:
    """``3 min``: the largest unit of which there is one, which is as much as anybody reads."""
    whole = max(0, int(seconds))
    size, unit = next((step for step in STEPS if whole >= step[0]), STEPS[-1])
    return f"{whole // size} {unit}"


def block(problem: Mapping[str, Any], now: float) -> str:
    """One problem: what and since when, what the cluster does, what a person does."""
    head = str(problem["severity"]).upper()
    since = problem.get("since_s")
    if since is not None:
        least = "at least " if problem.get("at_least") else ""
        head += f" since {least}{length(now - since)}"
    lines = [f"{head}: {problem['text']}"]
    if problem.get("doing"):
        lines.append(f"  it does: {problem['doing']}")
    if problem.get("todo"):
        lines.append(f"  you:     {problem['todo']}")
    return "\n".join(lines)


def blocks(found: Mapping[str, Any], now: float) -> str:
    """All of them; a manager of an older version has sentences only."""
    problems = found.get("problems")
    if problems is None:
        return "\n".join(f"issue  {line}" for line in found.get("issues") or ())
    return "\n".join(block(problem, now) for problem in problems)
