"""`drystone node maintenance`."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from drystone_cli.bundle.parts import parse_since
from drystone_cli.context import manager
from drystone_cli.output import Output, OutputOption, done, emit
from drystone_common.errors import InvalidArgumentError
from drystone_storaged.agent.rest import segment

DEFAULT: Final = "1h"  # a kernel update with its reboot, and time to look at it


def add_to(nodes: typer.Typer) -> None:
    """Add the command to its group."""
    nodes.command("maintenance")(maintenance)


def maintenance(
    node: Annotated[str, typer.Argument(help="Name of the storage node.")],
    *,
    length: Annotated[
        str, typer.Option("--for", help="How long at most: 10m, 2h, 1d.", show_default=DEFAULT)
    ] = "",
    reason: Annotated[str, typer.Option(help="What is done there; `status` shows it.")] = "",
    force: Annotated[
        bool,
        typer.Option("--force", help="Also with less redundancy than wanted; no last copy."),
    ] = False,
    end: Annotated[bool, typer.Option("--end", help="It is over, before its time.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Announce that a storage node goes away for a while, or that it is back.

    Refused where that would stop reads or writes, or where another node is away or being worked
    on already. While it lasts no copy is made anew elsewhere. It ends by itself.

    Example: drystone node maintenance node-1 --for 10m --reason "new kernel"
    """
    if end and (length or reason or force):
        raise InvalidArgumentError(
            "--end takes no other option", code="invalid_argument", hint="give --end alone"
        )
    path = f"/v1/nodes/{segment(node)}/maintenance"
    with manager() as rest:
        if end:
            rest.delete(path)
            done(output, {"node": node, "ended": True}, f"maintenance of {node} is over")
            return
        body = {"for_s": parse_since(length or DEFAULT), "reason": reason, "force": force}
        found = rest.post(path, body)
    emit(output, found, f"node {node} is in {text(found, time.time())}")


def text(found: dict[str, Any], now: float) -> str:
    """One phrase of a maintenance; the time is UTC, as that of problems beside it."""
    until = datetime.fromtimestamp(found["until_s"], UTC)
    form = "%H:%M UTC" if abs(found["until_s"] - now) < 12 * 3600 else "%Y-%m-%d %H:%M UTC"
    reason = f" ({found['reason']})" if found.get("reason") else ""
    return f"maintenance until {until.strftime(form)}{reason}"
