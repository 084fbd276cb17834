"""How commands print: tables for people, JSON for programs, progress for whoever waits."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Annotated, Any

import typer

from drystone_common.units import human_size


class Output(StrEnum):
    """How a command prints: for people, or for programs."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="table for people, json for programs.")
]


def emit(output: Output, data: object, text: str) -> None:
    """Print the data as JSON, or the text."""
    if output is Output.JSON:
        print(json.dumps(data, indent=2, ensure_ascii=False))
    elif text:
        print(text)


def done(output: Output, data: object, line: str) -> None:
    """The end of a command without a result of its own: a line for people, JSON for programs."""
    if output is Output.JSON:
        emit(output, data, "")
    else:
        say(line)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns as wide as their longest cell; nothing is cut, so that it can be piped."""
    cells = [[_cell(value) for value in row] for row in rows]
    columns = list(zip(headers, *cells, strict=True)) if cells else [(h,) for h in headers]
    widths = [max(len(cell) for cell in column) for column in columns]
    lines = [headers, *cells]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def fields(pairs: Sequence[tuple[str, object]]) -> str:
    """One thing: a name and a value a line."""
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"{name.ljust(width)}  {_cell(value)}" for name, value in pairs)


def size(value: int | None) -> str:
    """Bytes for reading; a figure that nobody knows yet is a dash."""
    return "-" if value is None else human_size(value)


def say(line: str) -> None:
    """Tell the person who waits; standard output stays for results."""
    print(line, file=sys.stderr, flush=True)


@contextmanager
def spinner(what: str) -> Iterator[Callable[[str], None]]:
    """Show that something runs: a moving line on a terminal, plain lines elsewhere."""
    if not sys.stderr.isatty():
        yield say
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, only for terminals

    console = Console(stderr=True, highlight=False)
    with console.status(what) as status:

        def tell(line: str) -> None:
            if line.startswith("waiting"):
                status.update(f"{what}: {line}")
            else:
                console.print(line, markup=False)

        yield tell


Advance = Callable[[int, int, str], None]
"""Takes what is done, of how much, and a word about it."""


@contextmanager
def progress(what: str) -> Iterator[Advance]:
    """A bar on a terminal; elsewhere a plain line whenever a tenth more is done."""
    if not sys.stderr.isatty():
        said = -1

        def line(done: int, total: int, note: str) -> None:
            nonlocal said
            tenths = 10 * done // total if total else 0
            if tenths != said:
                said = tenths
                say(f"{what}: {10 * tenths} % {note}".rstrip())

        yield line
        return
    from rich.console import Console  # noqa: PLC0415 - slow to import, only for terminals
    from rich.progress import Progress  # noqa: PLC0415 - as above

    with Progress(console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total, note: bars.update(
            task, completed=done, total=total or None, description=f"{what} {note}".rstrip()
        )


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
