"""`drystone status`, `node`, `drive`, `map`."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Any, Final

import typer

from drystone_cli import compares, devices, inspect, maintenance, moves, pools, retest
from drystone_cli.context import manager
from drystone_cli.output import (
    Output,
    OutputOption,
    done,
    emit,
    fields,
    progress,
    size,
    table,
)
from drystone_cli.problems import blocks
from drystone_cli.tasks import goes_on
from drystone_common.errors import DrystoneError, ExitCode, InvalidArgumentError
from drystone_storaged.agent.rest import LOOK_S, Rest, segment

POLL_S: Final = 0.2


class Role(StrEnum):
    """What a node may be."""

    SERVER = "server"
    CLIENT = "client"


nodes = typer.Typer(help="Nodes of the cluster.", no_args_is_help=True, rich_markup_mode=None)
drives = typer.Typer(help="Drives of the cluster.", no_args_is_help=True, rich_markup_mode=None)


def add_to(app: typer.Typer) -> None:
    """Add these commands to the tree."""
    app.command("status")(status)
    app.command("map")(show_map)
    app.add_typer(nodes, name="node")
    app.add_typer(drives, name="drive")
    devices.add_to(nodes, drives)
    moves.add_to(pools.app, nodes, drives)
    maintenance.add_to(nodes)
    compares.add_to(pools.app)
    drives.command("inspect")(inspect.inspect)
    drives.command("retest")(retest.retest)


def status(
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 unless everything is well.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the health of the cluster, what is wrong, its nodes, drives and placement groups.

    Each problem has since when it is there, what the cluster does about it, and what you do.
    """
    with manager(LOOK_S) as rest:
        found = rest.get("/v1/status")
    emit(output, found, _status_text(found))
    if check and found["health"] != "ok":
        raise typer.Exit(ExitCode.FAILED)


def show_map(
    pool: Annotated[str | None, typer.Option(help="Only this pool.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show which drives hold each placement group, and in which state."""
    with manager() as rest:
        found = rest.get("/v1/map", **({"pool": pool} if pool else {}))
    rows = [
        (
            pg["name"],
            pg["epoch"],
            _numbers(pg["insync"]),
            _numbers(pg["joining"]),
            _numbers(pg["out"]),
            _numbers(pg["target"]),
        )
        for pg in found["pgs"]
    ]
    headers = ("PG", "EPOCH", "IN-SYNC", "JOINING", "OUT", "TARGET")
    emit(output, found, f"revision {found['revision']}\n{table(headers, rows)}")


@nodes.command("list")
def list_nodes(output: OutputOption = Output.TABLE) -> None:
    """List storage and consuming nodes."""
    with manager() as rest:
        found = list(rest.items("/v1/nodes"))
    emit(output, {"items": found}, _nodes_text(found))


@nodes.command()
def forget(
    name: Annotated[str, typer.Argument(help="Name of the node.")],
    yes: Annotated[bool, typer.Option("--yes", help="Yes, what it holds is given up.")] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also where too few other drives have its data, or nothing proves that it is off: "
            "then it must be off, and stay off.",
        ),
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Forget a node that is gone for good; its name is free again, its drives are not.

    A node that is connected, or whose drives are in placement groups, is refused. So is one
    without which fewer than min_insync copies of something could come back, unless --force.
    """
    if not yes:
        raise InvalidArgumentError(
            "what the drives of this node hold is given up for good, they never come back",
            code="not_confirmed",
            hint="see `drystone status`; if the node cannot come back, repeat with --yes",
        )
    with manager() as rest:
        rest.delete(f"/v1/nodes/{segment(name)}{'?force=true' if force else ''}")
    done(output, {"node": name, "forgotten": True}, f"node {name} is forgotten")


@nodes.command("join-token")
def join_token(
    name: Annotated[str, typer.Argument(help="Name that the new node will have.")],
    role: Annotated[
        Role, typer.Option(help="server: it has drives; client: it attaches volumes.")
    ] = Role.SERVER,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a token that admits one new node of this name, once; it is shown only now.

    Put it into a file (mode 0600) on that machine and name it there as `join_token_file`.
    """
    with manager() as rest:
        made = rest.post("/v1/join-tokens", {"role": role.value, "name": name})
    emit(output, made, str(made["token"]))


@drives.command("list")
def list_drives(
    every: Annotated[bool, typer.Option("--all", help="Also forgotten drives.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """List drives."""
    with manager() as rest:
        found = [d for d in rest.items("/v1/drives") if every or d["state"] != "gone"]
    emit(output, {"items": found}, _drives_text(found))


@drives.command("show")
def show_drive(
    drive: Annotated[str, typer.Argument(help="Number or UUID of the drive.")],
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one drive."""
    with manager() as rest:
        found = rest.get(f"/v1/drives/{segment(drive)}")
    own = ("pgs", "strikes", "retest", "scrub")
    pairs = [(key.replace("_", " "), value) for key, value in found.items() if key not in own]
    pairs += retest.pairs(found)
    pairs.append(("scrubbed", compares.ago(found["scrub"], time.time())))
    pairs += [(f"placement groups {key}", value) for key, value in found["pgs"].items()]
    emit(output, found, fields(pairs))


@drives.command("forget")
def forget_drive(
    drive: Annotated[str, typer.Argument(help="Number or UUID of the drive.")],
    yes: Annotated[bool, typer.Option("--yes", help="Yes, what it holds is given up.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Forget a drive that is lost for good, so that a blank one can take its place.

    A drive that is up, or counts as an in-sync copy, is refused. Its number never returns: if it
    is found again it is not served. A blank file or device in its place becomes a new drive.
    """
    if not yes:
        raise InvalidArgumentError(
            "what this drive holds is given up for good",
            code="not_confirmed",
            hint="see `drystone drive show`; if it cannot come back, repeat with --yes",
        )
    with manager() as rest:
        rest.delete(f"/v1/drives/{segment(drive)}")
    done(output, {"drive": drive, "forgotten": True}, f"drive {drive} is forgotten")


@drives.command()
def scrub(
    drive: Annotated[str | None, typer.Argument(help="Number or UUID of the drive.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every drive that is up.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when it is done.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Read everything on a drive back and compare it with its checksums; bad blocks are healed.

    Example: drystone drive scrub --all --wait
    """
    if (drive is None) == (not every):
        raise InvalidArgumentError(
            "name one drive, or --all", code="invalid_argument", hint="see `drystone drive list`"
        )
    with manager() as rest:
        if drive is not None:
            chosen = [drive]
        else:
            chosen = [str(d["id"]) for d in rest.items("/v1/drives") if d["state"] == "up"]
        tasks = [rest.post(f"/v1/drives/{segment(each)}/scrub") for each in chosen]
        if wait:
            tasks = _wait_all(rest, tasks)
    rows = [(t["id"], t["state"], t.get("message") or "") for t in tasks]
    emit(output, {"items": tasks}, table(("TASK", "STATE", "RESULT"), rows))


def _wait_all(rest: Rest, tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Wait for all of them together: they run at the same time."""
    with goes_on(tasks), progress("scrub") as advance:
        while any(task["state"] not in ("done", "failed") for task in tasks):
            done, total = (sum(int(t[key]) for t in tasks) for key in ("done", "total"))
            advance(done, total, "")
            time.sleep(POLL_S)
            tasks = [rest.get(f"/v1/tasks/{task['id']}") for task in tasks]
    failed = [t for t in tasks if t["state"] == "failed"]
    if failed:
        raise DrystoneError(f"scrub failed: {failed[0].get('message') or 'no reason given'}")
    return tasks


def _status_text(found: dict[str, Any]) -> str:
    pgs = found["pgs"]
    head: list[tuple[str, object]] = [("health", found["health"])]
    head += [
        ("placement groups", f"{pgs['in_sync']} of {pgs['total']} in sync"),
        ("degraded", pgs["degraded"]),
        ("resyncing", f"{pgs['resyncing']} ({size(found['resync']['bytes_left'])} left)"),
    ]
    parts = (fields(head), blocks(found, time.time()), _nodes_text(found["nodes"]))
    return "\n\n".join(part for part in (*parts, _drives_text(found["drives"])) if part)


def _nodes_text(found: list[dict[str, Any]]) -> str:
    now = time.time()
    rows = [(n["name"], n["role"], _node_state(n, now), n.get("version"), n["uuid"]) for n in found]
    return table(("NODE", "ROLE", "STATE", "VERSION", "UUID"), rows)


def _node_state(node: dict[str, Any], now: float) -> str:
    """Up or down, and whether somebody works there."""
    record = node.get("maintenance")
    if not record or record["ended"]:
        return str(node["state"])
    late = ", overdue" if record["overdue"] else ""
    return f"{node['state']}, {maintenance.text(record, now)}{late}"


def _drives_text(found: list[dict[str, Any]]) -> str:
    now = time.time()
    rows = [
        (
            d["id"], d["node"], _drive_state(d), size(d["capacity"]), size(d["used"]),
            d["bad_blocks"], d["healed_blocks"], compares.ago(d["scrub"], now),
            len(d.get("strikes", ())), d["addr"],
        )
        for d in found
    ]  # fmt: skip
    headers = (
        "DRIVE", "NODE", "STATE", "CAPACITY", "USED", "BAD", "HEALED", "SCRUBBED", "STRIKES",
        "ADDRESS",
    )  # fmt: skip
    return table(headers, rows)


def _drive_state(drive: dict[str, Any]) -> str:
    """Up or down, and how many placement groups a drive that is emptied still has."""
    if drive.get("ejected"):
        return f"{drive['state']}, ejected"
    if drive.get("retest") and drive["state"] == "down":
        return "down, to be tested"
    if not drive.get("evacuating"):
        return str(drive["state"])
    return f"{drive['state']}, evacuating ({drive['held']} left)"


def _numbers(members: list[Any]) -> str:
    numbers = [m["drive"] if isinstance(m, dict) else m for m in members]
    return ",".join(str(number) for number in numbers)
