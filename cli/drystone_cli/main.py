"""`drystone`: the root of the command tree, and the one place that turns errors into exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated

import typer

from drystone_common import __version__
from drystone_common.errors import DrystoneError, ExitCode

app = typer.Typer(
    name="drystone",
    help="Replicated block storage over plain drives.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Output(StrEnum):
    """How a command prints: for people, or for programs."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[
    Output, typer.Option("--output", "-o", help="table for people, json for programs.")
]


@app.callback()
def root() -> None:
    """Replicated block storage over plain drives."""


@app.command()
def version(output: OutputOption = Output.TABLE) -> None:
    """Print the version of this program."""
    typer.echo(json.dumps({"version": __version__}) if output is Output.JSON else __version__)


def main(run: Callable[[], object] = app) -> None:
    """Run a command line; a ``DrystoneError`` becomes its message, its hint and its exit code."""
    try:
        run()
    except DrystoneError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(int(error.exit_code))
    except KeyboardInterrupt:
        # 130: how shells report a program ended by SIGINT.
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`drystone … | head`): not a failure of ours.
        sys.stderr.close()
        sys.exit(int(ExitCode.OK))
