"""`drystone pool rebalance`, `drystone drive evacuate`, `drystone node evacuate`."""

from __future__ import annotations

import time
from typing import Annotated, Any, Final

import typer

from drystone_cli.context import manager
from drystone_cli.output import (
    Output,
    OutputOption,
    emit,
    progress,
    say,
    size,
    table,
)
from drystone_cli.tasks import wait_for_task
from drystone_common.errors import ConflictError, InvalidArgumentError
from drystone_storaged.agent.rest import Rest, segment

POLL_S: Final = 0.5

WaitOption = Annotated[bool, typer.Option("--wait", help="Return when it is done.")]
CancelOption = Annotated[
    bool, typer.Option("--cancel", help="Keep it after all; what left it stays away.")
]


def add_to(pools: typer.Typer, nodes: typer.Typer, drives: typer.Typer) -> None:
    """Add these commands to their groups."""
    pools.command("rebalance")(rebalance)
    nodes.command("evacuate")(evacuate_node)
    drives.command("evacuate")(evacuate_drive)


def rebalance(
    name: Annotated[str, typer.Argument(help="Name of the pool.")],
    plan: Annotated[
        bool, typer.Option("--plan", help="Only show what it would move; changes nothing.")
    ] = False,
    wait: WaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Give every drive of a pool its share of the data, a few placement groups at a time.

    A pool does this by itself unless it was told not to (`drystone pool set --rebalance manual`).

    Example: drystone pool rebalance default --plan
    """
    path = f"/v1/pools/{segment(name)}/rebalance"
    if plan and wait:
        raise InvalidArgumentError("a plan is there at once: leave --wait out")
    with manager() as rest:
        if plan:
            found = rest.post(f"{path}?plan=true")
            emit(output, found, _plan_text(found))
            return
        task = rest.post(path)
        if wait:
            task = wait_for_task(rest, task, f"pool {name}")
    emit(output, task, f"pool {name}: {task['message'] or task['state']} (task {task['id']})")


def evacuate_drive(
    drive: Annotated[str, typer.Argument(help="Number or UUID of the drive.")],
    wait: WaitOption = False,
    cancel: CancelOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move everything that a drive holds to others, so that it can be removed.

    It serves until the others have everything: no copy is missing at any time. With --wait it ends
    with 4 where somebody else calls it off.

    Example: drystone drive evacuate 7 --wait
    """
    with manager() as rest:
        found = [_ask(rest, f"/v1/drives/{segment(drive)}", cancel=cancel)]
        found = _wait_empty(rest, found, f"drive {drive}") if wait and not cancel else found
    emit(output, found[0], _drives_text(found))
    if wait and not cancel:
        _require_empty(found, f"drive {drive}")


def evacuate_node(
    node: Annotated[str, typer.Argument(help="Name of the storage node.")],
    wait: WaitOption = False,
    cancel: CancelOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Move everything that the drives of a node hold to other nodes.

    Example: drystone node evacuate node-3 --wait
    """
    with manager() as rest:
        found = _ask(rest, f"/v1/nodes/{segment(node)}", cancel=cancel)["drives"]
        found = _wait_empty(rest, found, f"node {node}") if wait and not cancel else found
    emit(output, {"node": node, "drives": found}, _drives_text(found))
    if wait and not cancel:
        _require_empty(found, f"node {node}")


def _ask(rest: Rest, path: str, *, cancel: bool) -> dict[str, Any]:
    if not cancel:
        return rest.post(f"{path}/evacuate")
    rest.delete(f"{path}/evacuate")
    found = rest.get(path)
    if "drives" not in found:
        return found
    return {"drives": [rest.get(f"/v1/drives/{number}") for number in found["drives"]]}


def _wait_empty(rest: Rest, drives: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Return when nothing counts on the drives any more.

    There is no deadline: the person who waits sees the progress and may leave at any time.
    """
    total = sum(d["held"] for d in drives)
    try:
        with progress(what) as advance:
            while left := sum(d["held"] for d in drives if d["evacuating"]):
                total = max(total, left)
                advance(total - left, total, f"{left} placement groups left")
                time.sleep(POLL_S)
                drives = [rest.get(f"/v1/drives/{d['id']}") for d in drives]
    except KeyboardInterrupt:
        say("it goes on without you: see `drystone drive list`")
        raise
    return drives


def _require_empty(drives: list[dict[str, Any]], what: str) -> None:
    """Whoever goes on to remove a drive must not take the end of the wait for its success."""
    if left := sum(d["held"] for d in drives):
        raise ConflictError(
            f"{what}: the evacuation was called off, {left} placement groups are left",
            code="evacuation_called_off",
            hint="somebody else wants to keep it; begin again if it shall be emptied after all",
        )


def _plan_text(found: dict[str, Any]) -> str:
    if not found["moves"]:
        return f"pool {found['pool']} is balanced: nothing would move"
    rows = [(d["drive"], d["node"], d["gains"], d["loses"]) for d in found["drives"]]
    head = f"pool {found['pool']}: {found['moves']} copies of placement groups would move"
    return f"{head}, {size(found['bytes'])}\n\n{table(('DRIVE', 'NODE', 'GAINS', 'LOSES'), rows)}"


def _drives_text(drives: list[dict[str, Any]]) -> str:
    rows = [(d["id"], d["node"], d["state"], _progress_text(d)) for d in drives]
    return table(("DRIVE", "NODE", "STATE", "EVACUATION"), rows)


def _progress_text(drive: dict[str, Any]) -> str:
    if not drive["evacuating"]:
        return "-"
    left = drive["held"]
    return f"{left} placement groups left" if left else "done: it can be removed"
