"""`drystone events`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from drystone_cli.bundle.parts import parse_since
from drystone_cli.context import manager
from drystone_cli.happenings import Happening, merged, of_kubernetes, of_manager
from drystone_cli.kube import target
from drystone_cli.output import Output, OutputOption, emit, say, table
from drystone_common.errors import DeniedError, DrystoneError
from drystone_storaged.agent.rest import LOOK_S, Rest


def events(
    since: Annotated[str, typer.Option(help="How far back: 90s, 30m, 2h, 1d.")] = "24h",
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what happened, in the order of time: long work, issues, events of Kubernetes.

    Issues are those of now. Kubernetes keeps its events for an hour unless told otherwise.

    Example: drystone --kube events --since 2h
    """
    now = time.time()
    start = now - parse_since(since)
    chosen = target.chosen()
    failures: list[str] = []
    found: list[Happening] = []
    if chosen is None:
        with manager(LOOK_S) as rest:
            found += _of_manager(rest, now)
    else:
        found += _of_kubernetes(chosen, now, failures)
    listed = merged(found, start)
    data = {"items": [each.as_dict() for each in listed], "errors": failures}
    emit(output, data, _text(listed))
    for failure in failures:
        say(f"not shown: {failure}")


def _of_manager(rest: Rest, now: float) -> list[Happening]:
    issues = rest.get("/v1/status").get("issues") or ()
    return list(of_manager(rest.items("/v1/tasks"), issues, now))


def _of_kubernetes(chosen: target.Target, now: float, failures: list[str]) -> list[Happening]:
    from drystone_cli.kube import reach, storage  # noqa: PLC0415 - only with Kubernetes

    found: list[Happening] = []
    with reach.access(chosen) as to:
        cluster = storage.find_cluster(to.kube, to.kubectl, chosen)
        try:
            items = list(to.kube.items("/api/v1/events"))
        except DeniedError:
            failures.append("events outside of the namespace: you may not list them")
            items = list(to.kube.items(cluster.path("events")))
        found += of_kubernetes(items, cluster.name, cluster.namespace)
        with _noted(failures), reach.reached(to, cluster, LOOK_S) as rest:
            found += _of_manager(rest, now)
    return found


@contextmanager
def _noted(failures: list[str]) -> Iterator[None]:
    """Events are wanted most when no manager answers."""
    try:
        yield
    except DrystoneError as error:
        failures.append(f"tasks and issues of the managers: {error}")


def _text(listed: list[Happening]) -> str:
    rows: list[tuple[Any, ...]] = [
        (e.time, e.level, e.object, e.reason, e.count, " ".join(e.message.split())) for e in listed
    ]
    return table(("TIME", "LEVEL", "OBJECT", "REASON", "TIMES", "MESSAGE"), rows)
