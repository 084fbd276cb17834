"""`drystone task`, and waiting for long work that the manager does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer

from drystone_cli.context import manager
from drystone_cli.output import Output, OutputOption, emit, fields, progress, say, table
from drystone_common.errors import DrystoneError
from drystone_storaged.agent.rest import Rest

POLL_S: Final = 0.2

app = typer.Typer(
    help="Long work: scrubs, comparisons of copies, groups that are given up.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_tasks(output: OutputOption = Output.TABLE) -> None:
    """List long work, the oldest first."""
    with manager() as rest:
        found = list(rest.items("/v1/tasks"))
    rows = [
        (t["id"], t["kind"], t["subject"], t["state"], _percent(t), t.get("message")) for t in found
    ]
    headers = ("TASK", "KIND", "OF", "STATE", "DONE", "RESULT")
    emit(output, {"items": found}, table(headers, rows))


@app.command()
def show(
    number: Annotated[int, typer.Argument(help="Number of the task.")],
    wait: Annotated[bool, typer.Option("--wait", help="Return when it has ended.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show one task, or wait for its end.

    Example: drystone task show 17 --wait
    """
    with manager() as rest:
        task = rest.get(f"/v1/tasks/{number}")
        if wait:
            task = wait_for_task(rest, task, f"task {number}")
    pairs = [(key, task.get(key)) for key in ("id", "kind", "subject", "state", "message")]
    emit(output, task, fields([*pairs, ("done", _percent(task))]))


def _percent(task: dict[str, Any]) -> str:
    """How far it is; a task that has ended is done, whatever it had to look at."""
    if task["state"] == "done":
        return "100 %"
    return f"{100 * int(task['done']) // int(task['total'])} %" if int(task["total"]) else "-"


@contextmanager
def goes_on(tasks: Sequence[dict[str, Any]]) -> Iterator[None]:
    """Say where to look when the person who waits leaves."""
    try:
        yield
    except KeyboardInterrupt:
        numbers = ", ".join(str(task["id"]) for task in tasks)
        say(f"it goes on without you: `drystone task show NUMBER --wait` of {numbers}")
        raise


def wait_for_task(rest: Rest, task: dict[str, Any], what: str) -> dict[str, Any]:
    """Return the task when it has ended well; its failure is raised.

    There is no deadline: the person who waits sees the progress and may leave at any time,
    the task goes on.
    """
    with goes_on([task]), progress(what) as advance:
        while task["state"] not in ("done", "failed"):
            advance(int(task["done"]), int(task["total"]), str(task.get("message") or ""))
            time.sleep(POLL_S)
            task = rest.get(f"/v1/tasks/{task['id']}")
    if task["state"] == "failed":
        raise DrystoneError(f"{what} failed: {task.get('message') or 'no reason given'}")
    return task
