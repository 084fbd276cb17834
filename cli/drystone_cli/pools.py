"""`drystone pool`."""

from __future__ import annotations

import re
import time
from enum import StrEnum
from typing import Annotated, Any

import typer

from drystone_cli.bundle.parts import parse_since
from drystone_cli.compares import ago
from drystone_cli.context import manager
from drystone_cli.output import Output, OutputOption, done, emit, fields, size, table
from drystone_cli.tasks import wait_for_task
from drystone_common.errors import InvalidArgumentError
from drystone_storaged.agent.rest import segment

app = typer.Typer(
    help="Pools: how many copies, and what may fail at once.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class FailureDomain(StrEnum):
    """What holds one copy."""

    AUTO = "auto"
    FAULT_SET = "fault-set"
    NODE = "node"
    DRIVE = "drive"


class Rebalance(StrEnum):
    """When a pool is balanced."""

    AUTO = "auto"
    MANUAL = "manual"


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the pool.")],
    copies: Annotated[int, typer.Option(help="Copies of every block.")],
    min_insync: Annotated[
        int | None,
        typer.Option(
            help="Copies that must be there for writes.  [default: a majority]", show_default=False
        ),
    ] = None,
    failure_domain: Annotated[
        FailureDomain, typer.Option(help="What may fail at once and so holds one copy.")
    ] = FailureDomain.AUTO,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a pool over the drives that are up.

    Example: drystone pool create fast --copies 3 --min-insync 2
    """
    body: dict[str, object] = {
        "name": name,
        "copies": copies,
        "failure_domain": failure_domain.value,
    }
    if min_insync is not None:
        body["min_insync"] = min_insync
    with manager() as rest:
        pool = rest.post("/v1/pools", body)
    emit(output, pool, _text(pool))


@app.command("list")
def list_pools(output: OutputOption = Output.TABLE) -> None:
    """List pools with their space, in bytes of volumes."""
    with manager() as rest:
        pools = list(rest.items("/v1/pools"))
    rows = [
        (
            p["name"], p["copies"], p["min_insync"], p["failure_domain"], size(p["capacity"]),
            size(p["used"]), f"{p['pgs']['in_sync']}/{p['pgs']['total']}",
        )
        for p in pools
    ]  # fmt: skip
    headers = ("NAME", "COPIES", "MIN-INSYNC", "DOMAIN", "CAPACITY", "USED", "IN-SYNC")
    emit(output, {"items": pools}, table(headers, rows))


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="Name of the pool.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one pool."""
    with manager() as rest:
        pool = rest.get(f"/v1/pools/{segment(name)}")
    emit(output, pool, _text(pool))


@app.command("set")
def change(
    name: Annotated[str, typer.Argument(help="Name of the pool.")],
    *,
    min_insync: Annotated[
        int | None, typer.Option(help="Copies that must be there for writes.")
    ] = None,
    out_time: Annotated[
        str | None,
        typer.Option(
            help="How long a drive may be away before others take its place, such as 10m or 2h; "
            "0 for ever."
        ),
    ] = None,
    rebalance: Annotated[
        Rebalance | None, typer.Option(help="Whether new drives get their share by themselves.")
    ] = None,
    scrub_days: Annotated[
        int | None,
        typer.Option(
            help="Within how many days every drive is read back and all copies are compared; "
            "0 for never."
        ),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Change a pool. Fewer copies for writes keep them going through a failure, at a risk.

    With --min-insync 1 a write may be on one drive only: if that is lost, so is the write.
    """
    body: dict[str, object] = {}
    if min_insync is not None:
        body["min_insync"] = min_insync
    if out_time is not None:
        body["out_time_s"] = 0 if out_time.strip() == "0" else parse_since(out_time)
    if rebalance is not None:
        body["rebalance"] = rebalance.value
    if scrub_days is not None:
        body["scrub_days"] = scrub_days
    if not body:
        raise InvalidArgumentError(
            "nothing to change is given",
            code="nothing_to_change",
            hint="give --min-insync, --out-time, --rebalance or --scrub-days",
        )
    with manager() as rest:
        pool = rest.patch(f"/v1/pools/{segment(name)}", body)
    emit(output, pool, _text(pool))


@app.command()
def delete(
    name: Annotated[str, typer.Argument(help="Name of the pool.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete a pool that has no volumes."""
    with manager() as rest:
        rest.delete(f"/v1/pools/{segment(name)}")
    done(output, {"pool": name, "deleted": True}, f"pool {name} is deleted")


@app.command("mark-lost")
def mark_lost(
    pg: Annotated[str, typer.Argument(help="Number of the placement group, or POOL/NUMBER.")],
    *,
    pool: Annotated[str, typer.Option(help="Pool of the placement group.")] = "default",
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show who would take over; changes nothing.")
    ] = False,
    drive: Annotated[
        int | None,
        typer.Option(help="Number of the drive that takes over, instead of who holds most.", min=1),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Yes, this data is gone.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give up the data of a placement group whose copies are all gone for good.

    What one drive still has is taken for the truth; what was only on the lost ones is lost.

    Example: drystone pool mark-lost default/17 --plan, then the same with --yes
    """
    found = re.fullmatch(r"(?:([^/]{1,63})/)?([0-9]{1,4})", pg)
    if found is None:
        raise InvalidArgumentError(
            f"{pg!a} is not a placement group", code="invalid_pg", hint="write 17 or default/17"
        )
    if not yes and not plan:
        raise InvalidArgumentError(
            "this gives data up for good",
            code="not_confirmed",
            hint="see `drystone status`; if no drive with a copy can come back, see what is left "
            "with --plan, and repeat with --yes",
        )
    name, number = found[1] or pool, int(found[2])
    with manager() as rest:
        if plan:
            would = rest.get(f"/v1/pools/{segment(name)}/mark-lost?pg={number}")
            emit(output, would, _heirs_text(would, drive))
            return
        body = {"pg": number, "confirm": True} | ({} if drive is None else {"drive": drive})
        task = rest.post(f"/v1/pools/{segment(name)}/mark-lost", body)
        task = wait_for_task(rest, task, f"placement group {name}/{number}")
    emit(output, task, f"placement group {name}/{number}: {task['message'] or task['state']}")


def _heirs_text(would: dict[str, Any], drive: int | None) -> str:
    said = [f"{d['text']} ({d['node']})" for d in would["drives"]]
    chosen = next((n for n, d in enumerate(would["drives"]) if drive in {None, d["drive"]}), None)
    if chosen is None:
        return f"drive {drive} cannot take over; these can: {'; '.join(said)}"
    others = "; ".join(said[:chosen] + said[chosen + 1 :])
    return f"takes over: {said[chosen]}" + (f"\ninstead (--drive): {others}" if others else "")


def _text(pool: dict[str, Any]) -> str:
    pgs = pool["pgs"]
    return fields(
        [
            ("name", pool["name"]),
            ("copies", pool["copies"]),
            ("placed copies", pool["width"]),
            ("min in-sync", pool["min_insync"]),
            ("failure domain", pool["failure_domain"]),
            ("capacity", size(pool["capacity"])),
            ("used", size(pool["used"])),
            ("available", size(pool["available"])),
            ("placement groups", pgs["total"]),
            ("in sync", pgs["in_sync"]),
            ("degraded", pgs["degraded"]),
            ("resyncing", pgs["resyncing"]),
            ("out time", f"{pool['out_time_s']} s" if pool["out_time_s"] else "never"),
            ("rebalance", pool["rebalance"]),
            ("scrub within", f"{pool['scrub_days']} days" if pool["scrub_days"] else "never"),
            ("copies compared", ago(pool["compare"], time.time())),
            ("groups to move", f"{pool['moves']['left']} ({pool['moves']['running']} on the way)"),
        ]
    )
