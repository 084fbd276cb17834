"""The chart, rendered by Helm's own library: the one place that knows how it is called."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from drystone_common.metrics import Metrics
from drystone_operator.metrics import OperatorMetrics
from tests.unit.source_tree import ROOT

CHART: Final = ROOT / "charts" / "drystone"
CI: Final = {path.stem.removesuffix("-values"): path for path in sorted(CHART.glob("ci/*.yaml"))}
GOLDEN: Final = Path(__file__).parent / "golden"

Json = dict[str, Any]


class RefusedError(Exception):
    """Helm refused the values or a template."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """What an installation would apply, and what it would say."""

    objects: tuple[Json, ...]

    def of(self, kind: str, name: str = "") -> list[Json]:
        """Objects of a kind; of a name where one is given."""
        return [
            one
            for one in self.objects
            if one["kind"] == kind and name in ("", one["metadata"]["name"])
        ]

    def one(self, kind: str, name: str = "") -> Json:
        """The only object of a kind (and name)."""
        (found,) = self.of(kind, name)
        return found


def values_of(name: str) -> Json:
    """The values of a case in the chart's ci folder."""
    return yaml.safe_load(CI[name].read_text()) or {}


def documents(text: str) -> tuple[Json, ...]:
    # The same as safe_load_all, by the C library where there is one: definitions are long.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return tuple(one for one in yaml.load_all(text, loader) if one)


def library() -> Any:
    """Helm's library; without it there is nothing to test, and the reason is said."""
    return pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")


@cache
def _files(values: str, release: str, namespace: str) -> dict[str, str]:
    helm = library()
    try:
        with helm.Chart.load(CHART) as chart:
            given = json.loads(values)
            # An installation checks the values first; rendering alone does not.
            chart.validate_schema(chart.merge_values(given))
            files: dict[str, str] = chart.render(given, name=release, namespace=namespace)
            return files
    except helm.HelmError as error:
        raise RefusedError(str(error)) from error


@cache
def _objects(values: str, release: str, namespace: str) -> Rendered:
    files = _files(values, release, namespace)
    found = [
        one
        for name, text in sorted(files.items())
        if name.endswith(".yaml")
        for one in documents(text)
    ]
    return Rendered(tuple(found))


def render(
    values: Json | None = None, *, release: str = "drystone", namespace: str = "drystone"
) -> Rendered:
    """Render with values; RefusedError where Helm refuses them. Look only: it is kept."""
    return _objects(json.dumps(values or {}, sort_keys=True), release, namespace)


def notes(values: Json | None = None) -> str:
    """What is said after an installation."""
    files = _files(json.dumps(values or {}, sort_keys=True), "drystone", "drystone")
    (told,) = [text for name, text in files.items() if name.endswith("NOTES.txt")]
    return told


def lint(values: Json | None = None) -> list[str]:
    """What `helm lint --strict` complains about."""
    report = library().lint(CHART, values or {}, strict=True, namespace="drystone")
    told = [f"{one['path']}: {one['error']}" for one in report["messages"] if one["severity"] > 1]
    return [*told, *report["errors"]]


def images(value: Any) -> set[str]:
    """Every image that an object names, in containers and in variables of the operator."""
    found: set[str] = set()
    if isinstance(value, dict):
        if isinstance(value.get("image"), str):
            found.add(value["image"])
        if str(value.get("name", "")).endswith("_IMAGE") and value.get("value"):
            found.add(value["value"])
        for child in value.values():
            found |= images(child)
    elif isinstance(value, list):
        for child in value:
            found |= images(child)
    return found


def metrics_documented() -> set[str]:
    """Every metric that the documents list, and those that the operator has."""
    text = (ROOT / "docs" / "metrics.md").read_text()
    registry = Metrics("operator", "0")
    OperatorMetrics(registry)
    own = re.findall(r"^# TYPE (drystone_operator_\w+)", registry.render().decode(), re.MULTILINE)
    return {*re.findall(r"`(drystone_[a-z_]+)", text), *own}
