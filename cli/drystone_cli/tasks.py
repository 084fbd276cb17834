"""Waiting for long work that the manager does."""

from __future__ import annotations

import time
from typing import Any, Final

from drystone_cli.output import progress
from drystone_common.errors import DrystoneError
from drystone_storaged.agent.rest import Rest

POLL_S: Final = 0.2


def wait_for_task(rest: Rest, task: dict[str, Any], what: str) -> dict[str, Any]:
    """Return the task when it has ended well; its failure is raised.

    There is no deadline: the person who waits sees the progress and may leave at any time,
    the task goes on.
    """
    with progress(what) as advance:
        while task["state"] not in ("done", "failed"):
            advance(int(task["done"]), int(task["total"]), str(task.get("message") or ""))
            time.sleep(POLL_S)
            task = rest.get(f"/v1/tasks/{task['id']}")
    if task["state"] == "failed":
        raise DrystoneError(f"{what} failed: {task.get('message') or 'no reason given'}")
    return task
