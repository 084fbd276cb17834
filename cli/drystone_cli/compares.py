"""`drystone pool compare`, and how long ago a drive was read back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final

import typer

from drystone_cli.context import manager
from drystone_cli.output import Output, OutputOption, emit
from drystone_cli.problems import length
from drystone_cli.tasks import wait_for_task
from drystone_common.errors import DataError, UnavailableError
from drystone_storaged.agent.rest import segment

NOW_S: Final = 60


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
    With --wait it ends with 9 where copies differ, and with 5 where groups were not compared.

    Example: drystone pool compare default --wait
    """
    with manager() as rest:
        task, found = rest.post(f"/v1/pools/{segment(name)}/compare"), None
        if wait:
            task = wait_for_task(rest, task, f"pool {name}")
            found = rest.get(f"/v1/pools/{segment(name)}")["compare"]
    emit(output, task, f"pool {name}: {task['message'] or task['state']} (task {task['id']})")
    if found:
        _require_equal(name, found)


def _require_equal(name: str, found: dict[str, Any]) -> None:
    if found["divergent"]:
        raise DataError(
            f"{found['divergent']} blocks of pool {name} differ between copies that are in sync",
            code="copies_differ",
            hint="see docs/runbooks/copies-differ.md before anything is restarted or replaced",
        )
    if found["skipped"]:
        raise UnavailableError(
            f"{found['skipped']} groups of pool {name} could not be compared",
            code="not_compared",
            hint="bring back what is away (`drystone status`), then repeat",
        )


def require_healed(drives: Iterable[dict[str, Any]]) -> None:
    """Raise unless the last scrub of each drive left nothing bad behind."""
    bad = {d["id"]: d["scrub"]["left"] for d in drives if d.get("scrub") and d["scrub"]["left"]}
    if bad:
        raise DataError(
            f"{sum(bad.values())} bad blocks were not healed: "
            + ", ".join(f"{count} of drive {number}" for number, count in bad.items()),
            code="blocks_not_healed",
            hint="bring the other copies back (`drystone status`), then scrub again; if the "
            "number stays, replace the drive",
        )


def ago(record: dict[str, Any] | None, now: float) -> str:
    """How long ago a scrub or a comparison ended."""
    if not record:
        return "never"
    past = now - float(record["done_s"])
    return length(past) if past >= NOW_S else "now"
