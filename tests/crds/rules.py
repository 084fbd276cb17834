"""The CEL rules of a definition, evaluated over an object as the API server does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cel

_ABSENT: Any = object()


@dataclass(frozen=True, slots=True)
class Verdict:
    """One rule at one place of an object, and whether it holds."""

    path: str
    rule: str
    message: str
    holds: bool


def holds(rule: str, self: Any, old: Any = _ABSENT) -> bool:
    """Evaluate one rule."""
    context = cel.Context()
    context.add_variable("self", self)
    if old is not _ABSENT:
        context.add_variable("oldSelf", old)
    answer = cel.evaluate(rule, context)
    assert isinstance(answer, bool), f"{rule} gives {answer!r}"
    return answer


def verdicts(
    schema: dict[str, Any], value: Any, old: Any = _ABSENT, path: str = ""
) -> Iterator[Verdict]:
    """Evaluate every rule that applies; one that looks back is skipped where nothing was."""
    for rule in schema.get("x-kubernetes-validations", []):
        if "oldSelf" in rule["rule"] and old is _ABSENT:
            continue
        yield Verdict(path, rule["rule"], rule["message"], holds(rule["rule"], value, old))
    for name, child in schema.get("properties", {}).items():
        if isinstance(value, dict) and name in value:
            before = old.get(name, _ABSENT) if isinstance(old, dict) else _ABSENT
            yield from verdicts(child, value[name], before, f"{path}.{name}".lstrip("."))
    if isinstance(value, list):
        for one in value:
            yield from verdicts(schema["items"], one, _ABSENT, f"{path}.items")
