"""`drystone drive retest`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from drystone_cli.context import manager
from drystone_cli.output import Output, OutputOption, done
from drystone_cli.tasks import wait_for_task
from drystone_storaged.agent.rest import segment


def retest(
    drive: Annotated[str, typer.Argument(help="Number or UUID of the drive.")],
    forgive: Annotated[
        bool, typer.Option("--forgive", help="Take its strikes away, also where it is ejected.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Test a drive by reads and small durable writes, beside some others of its kind.

    Takes some seconds at most and changes none of its data. A drive that is out because it was slow
    comes back if it passes; one that was ejected after three times in a day only with --forgive.

    Example: drystone drive retest 3 --forgive
    """
    path = f"/v1/drives/{segment(drive)}/retest{'?forgive=true' if forgive else ''}"
    with manager() as rest:
        task = wait_for_task(rest, rest.post(path), f"test of drive {drive}")
    done(output, task, str(task.get("message") or "passed"))


def pairs(drive: dict[str, Any]) -> list[tuple[str, object]]:
    """What is held against a drive, for `drive show`."""
    found: list[tuple[str, object]] = []
    for strike in drive.get("strikes", ()):
        at = datetime.fromtimestamp(strike["at_s"], UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        found.append(("strike", f"{at}, {strike['reason']}"))
    if drive.get("ejected"):
        found.append(("retest", "none by itself, it is ejected"))
    elif test := drive.get("retest"):
        last = f" (at last {test['last']})" if test["last"] else ""
        found.append(("retest", f"failed {test['tries']} times{last}" if last else "is due"))
    return found
