"""`drystone pool compare`, and how long ago a drive was read back."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer

from drystone_cli.context import manager
from drystone_cli.output import Output, OutputOption, emit
from drystone_cli.tasks import wait_for_task
from drystone_storaged.agent.rest import segment

UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "min"))


def add_to(pools: typer.Typer) -> None:
    """Add the command to its group."""
    pools.command("compare")(compare)


def compare(
    name: Annotated[str, typer.Argument(help="Name of the pool.")],
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is done.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Compare what all copies of a pool hold, by versions and checksums; no data is read.

    A copy that cannot be read is healed. Copies that hold different content are shown, and left
    alone: nothing tells which is right. A pool does this by itself (`pool set --scrub-days`).

    Example: drystone pool compare default --wait
    """
    with manager() as rest:
        task = rest.post(f"/v1/pools/{segment(name)}/compare")
        if wait:
            task = wait_for_task(rest, task, f"pool {name}")
    emit(output, task, f"pool {name}: {task['message'] or task['state']} (task {task['id']})")


def ago(record: dict[str, Any] | None, now: float) -> str:
    """How long ago a scrub or a comparison ended."""
    if not record:
        return "never"
    past = max(0.0, now - float(record["done_s"]))
    for unit, name in UNITS:
        if past >= unit:
            return f"{past / unit:.0f} {name}"
    return "now"
