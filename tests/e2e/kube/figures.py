"""Figures of a run: shown as a table at its end, and as JSON where a program wants them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.e2e.lib.percentile import percentile

OUTPUT: Final = "DRYSTONE_KUBE_FIGURES"


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value. ``bar``: what it should be, in words; empty = reported only."""

    name: str
    value: float
    unit: str
    bar: str = ""


@dataclass(slots=True)
class Figures:
    """All of a run, in the order in which they came."""

    items: list[Figure] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, bar: str = "") -> None:
        """Keep one."""
        self.items.append(Figure(name, value, unit, bar))

    def spread(self, name: str, values: Sequence[float], bar: str = "") -> None:
        """Keep median and 95th percentile of some seconds; the bar is of the latter."""
        self.add(f"{name}, p50", percentile(values, 50), "s")
        self.add(f"{name}, p95", percentile(values, 95), "s", bar)

    def show(self) -> None:
        """Print the table, and write the file that the environment names."""
        width = max((len(item.name) for item in self.items), default=0)
        for item in self.items:
            value = f"{item.value:.3g}" if item.value < 100 else f"{item.value:.0f}"
            bar = f"  (bar: {item.bar})" if item.bar else ""
            print(f"{item.name:<{width}}  {value:>8} {item.unit}{bar}", file=sys.stderr)
        path = os.environ.get(OUTPUT)
        if path:
            rows = [
                {"name": i.name, "value": i.value, "unit": i.unit, "bar": i.bar} for i in self.items
            ]
            Path(path).write_text(json.dumps(rows, indent=1) + "\n")
