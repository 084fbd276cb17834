"""`drystone task`, and waiting for long work that the manager does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Final

import typer

from drystone_cli.context import manager
from drystone_cli.output import Output, OutputOption, emit, fields, progress, say, table
from drystone_common.errors import DrystoneError
from drystone_storaged.agent.rest import Rest

POLL_S: Final = 0.2

OF_DRIVES: Final = frozenset({"scrub", "retest"})
OF_POOLS: Final = frozenset({"compare", "rebalance", "mark-lost"})

app = typer.Typer(
    help="Long work: scrubs, comparisons of copies, balancing, tests of drives, groups given up.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_tasks(output: OutputOption = Output.TABLE) -> None:
    """List long work, the oldest first."""
    with manager() as rest:
        found = list(rest.items("/v1/tasks"))
        pools = _pools(rest, found)
    rows = [
        (t["id"], t["kind"], subject(t, pools), t["state"], _percent(t), t.get("message"))
        for t in found
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
        of = subject(task, _pools(rest, [task]))
    pairs = [(key, task.get(key)) for key in ("id", "kind", "state", "message")]
    emit(output, task, fields([*pairs[:2], ("of", of), *pairs[2:], ("done", _percent(task))]))


def subject(task: Mapping[str, Any], pools: Mapping[str, str]) -> str:
    """What a task is about, in the words of commands; ``pools`` are names by number."""
    kind, raw = str(task["kind"]), str(task["subject"])
    if kind in OF_DRIVES:
        return f"drive {raw}"
    if kind not in OF_POOLS:
        return raw
    number, *rest = raw.split(".")
    # Of a group that was given up the epoch comes last: it tells two losses apart, for programs.
    return "/".join((pools.get(number, f"pool number {number}"), *rest[:1]))


def _pools(rest: Rest, tasks: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Names of pools by number, where a task is about one."""
    if not any(task["kind"] in OF_POOLS for task in tasks):
        return {}
    return {str(pool["id"]): str(pool["name"]) for pool in rest.items("/v1/pools")}


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
    """Return the task when it has ended well; its failure is raised."""
    return wait_for_tasks(rest, [task], what)[0]


def wait_for_tasks(rest: Rest, tasks: list[dict[str, Any]], what: str) -> list[dict[str, Any]]:
    """Wait for all of them together, they run at the same time; a failure is raised at the end.

    There is no deadline: the person who waits sees the progress and may leave at any time,
    the tasks go on.
    """
    with goes_on(tasks), progress(what) as advance:
        while any(task["state"] not in ("done", "failed") for task in tasks):
            done, total = (sum(int(t[key]) for t in tasks) for key in ("done", "total"))
            advance(done, total, str(tasks[0].get("message") or "") if len(tasks) == 1 else "")
            time.sleep(POLL_S)
            tasks = [rest.get(f"/v1/tasks/{task['id']}") for task in tasks]
    failed = [task for task in tasks if task["state"] == "failed"]
    if failed:
        raise DrystoneError(f"{what} failed: {failed[0].get('message') or 'no reason given'}")
    return tasks
