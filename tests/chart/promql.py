"""Queries of alerts and of the dashboard, parsed as Prometheus would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import promql_parser
from promql_parser import AggModifierType

FOR_GRAFANA = {"$__rate_interval": "5m", "$cluster": ".+"}
"""Grafana's own variables stand for a time and a pattern."""


def parse(expression: str) -> Any:
    """The tree of a query; ValueError where Prometheus would refuse it."""
    for variable, value in FOR_GRAFANA.items():
        expression = expression.replace(variable, value)
    return promql_parser.parse(expression)


def nodes(expression: str) -> Iterator[Any]:
    """Every part of a query."""
    found: list[Any] = []
    promql_parser.walk(parse(expression), found.append)
    yield from found


def metrics(expression: str) -> set[str]:
    """Names of the series that a query reads."""
    selectors = [n for n in nodes(expression) if isinstance(n, promql_parser.VectorSelector)]
    found = {one.name or "" for one in selectors}
    assert "" not in found, "a selector without a name reads everything"
    return found


def matched(expression: str, label: str) -> set[str]:
    """Values of a label that a query asks for; a pattern is a choice of words."""
    return {
        word
        for node in nodes(expression)
        if isinstance(node, promql_parser.VectorSelector)
        for matcher in node.matchers.matchers
        if matcher.name == label and matcher.value != FOR_GRAFANA["$cluster"]
        for word in matcher.value.split("|")
    }


def left(expression: str) -> set[str] | None:
    """Labels that the result has where the query says so; None = those of the series."""
    return _left(parse(expression))


def _left(node: Any) -> set[str] | None:
    if isinstance(node, promql_parser.AggregateExpr):
        if node.modifier is None:
            return set()
        is_by = node.modifier.type == AggModifierType.By
        return set(node.modifier.labels) if is_by else None
    if isinstance(node, promql_parser.BinaryExpr):
        return _left(node.lhs)
    if isinstance(node, promql_parser.ParenExpr):
        return _left(node.expr)
    if isinstance(node, promql_parser.Call):
        kept = [_left(arg) for arg in node.args if not isinstance(arg, promql_parser.NumberLiteral)]
        return kept[0] if kept else None
    return None
