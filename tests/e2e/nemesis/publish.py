"""Figures of runs into the durability contract: copied from what they wrote, nothing is made up.

python -m tests.e2e.nemesis --publish FILE…     files that DRYSTONE_NEMESIS_FIGURES named, one a run
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from drystone_common.files import atomic_write_text
from tests.e2e.lib.shell import LabError
from tests.e2e.nemesis.settings import ROOT

PAGE: Final = ROOT / "docs" / "durability.md"
BEGIN: Final = "<!-- nemesis: begin, written by `python -m tests.e2e.nemesis --publish` -->"
END: Final = "<!-- nemesis: end -->"


def publish(files: Iterable[Path], page: Path = PAGE) -> None:
    """Replace what stands between the markers."""
    text = page.read_text()
    before, found, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not found or not ended:
        raise LabError(f"{page} has no place for figures: the lines {BEGIN} and {END} are missing")
    runs = [_read(path) for path in files]
    body = "\n\n".join(_of(run) for run in runs)
    atomic_write_text(page, f"{before}{BEGIN}\n\n{body}\n\n{END}{after}")


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise LabError(f"{path} has no figures of a run: {error}") from error


def _of(run: Mapping[str, Any]) -> str:
    head = (
        f"**{run['servers']} servers**, seed {run['seed']}, commit {run['commit']}, {run['date']}"
    )
    missed = run["failed"]
    return "\n".join([
        f"{head}:", "",
        "| lap | laps | median | worst | bar |", "|---|---|---|---|---|",
        *(_row(row) for row in run["rows"]),
        *(_figure(figure) for figure in run.get("figures", ())), "",
        *_bullets(run["sentences"]), "",
        f"Known misses of this run: {'none.' if not missed else ''}".rstrip(),
        *(["", *_bullets(missed)] if missed else []),
    ])  # fmt: skip


def _figure(figure: Mapping[str, Any]) -> str:
    unit = f" {figure['unit']}" if figure["unit"] else ""
    missed = " **missed**" if figure["worst"] > figure["most"] else ""
    return (
        f"| {figure['lap']}: {figure['name']} | {figure['laps']} | {figure['median']:.2f}{unit} "
        f"| {figure['worst']:.2f}{unit} | ≤ {figure['most']:g}{unit}{missed} |"
    )


def _row(row: Mapping[str, Any]) -> str:
    missed = " **missed**" if row["problems"] else ""
    median, worst = f"{row['median_s']:.2f} s", f"{row['worst_s']:.2f} s"
    return f"| {row['name']} | {row['laps']} | {median} | {worst} | {row['bar']}{missed} |"


def _bullets(said: Iterable[str]) -> Sequence[str]:
    return [f"- {each}" for each in said]
