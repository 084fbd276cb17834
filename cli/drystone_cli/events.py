"""`drystone events`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from drystone_cli.bundle.parts import parse_since
from drystone_cli.context import manager
from drystone_cli.happenings import (
    RECOUNTED_S,
    Happening,
    merged,
    of_history,
    of_kubernetes,
    of_manager,
)
from drystone_cli.kube import target
from drystone_cli.output import Output, OutputOption, emit, say, table
from drystone_common.errors import (
    DeadlineError,
    DeniedError,
    DrystoneError,
    NotFoundError,
    UnavailableError,
)
from drystone_storaged.agent.rest import LOOK_S, Rest

FOLLOW_S: Final = 2.0  # between two looks: managers write events once a second
AWAY: Final = (UnavailableError, DeadlineError)
"""Nobody answers, or nobody leads: that passes, and who follows goes on."""


def events(
    since: Annotated[str, typer.Option(help="How far back: 90s, 30m, 2h, 1d.")] = "24h",
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with what happens, until Ctrl-C.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what happened, in the order of time: what the managers remember, long work, issues.

    Issues are those of now. Managers keep the newest 2000 events. Of a Kubernetes also its events,
    which it keeps for an hour unless told otherwise.

    Example: drystone --kube events --since 2h
    """
    start = time.time() - parse_since(since)
    chosen = target.chosen()
    if follow:
        _follow(chosen, start, output)
        return
    # Without Kubernetes the managers are all that there is: whoever cannot ask them is told so.
    listed, failures = _look(chosen, Since(start, start), patient=chosen is not None)
    data = {"items": [each.as_dict() for each in listed], "errors": failures}
    emit(output, data, _text(listed))
    for failure in failures:
        say(f"not shown: {failure}")


@dataclass(frozen=True, slots=True)
class Since:
    """From when on something is shown, and from when on managers are asked for it."""

    start: float
    known: float
    """By the managers' clock, which need not be that of this machine."""

    def after(self, listed: Iterable[Happening]) -> Since:
        """At the next look: what the managers told was told."""
        times = (each.time for each in listed if each.source == "manager" and each.time)
        newest = max(times, default="")
        at = datetime.fromisoformat(newest).timestamp() if newest else self.known
        return Since(self.start, max(self.known, at))


def _look(
    chosen: target.Target | None, since: Since, *, patient: bool
) -> tuple[list[Happening], list[str]]:
    now = time.time()
    failures: list[str] = []
    found: list[Happening] = []
    if chosen is None:
        with _noted(failures, AWAY if patient else ()), manager(LOOK_S) as rest:
            found += _of_manager(rest, since, now)
    else:
        found += _of_kubernetes(chosen, since, failures)
    return merged(found, since.start), failures


def _follow(chosen: target.Target | None, start: float, output: Output) -> None:
    """A line for each event when it comes, and again when it is counted up."""
    since = Since(start, start)
    shown: set[tuple[object, ...]] = set()
    said: list[str] = []
    while True:
        listed, failures = _look(chosen, since, patient=True)
        since = since.after(listed)
        # What holds now is no event: it would be one at every look.
        happened = [each for each in listed if each.source != "issue"]
        fresh = [each for each in happened if each.same not in shown]
        # Only what may be listed again need be known; of who did not answer that is everything.
        shown = {each.same for each in happened} | (shown if failures else set())
        for each in fresh:
            if output is Output.JSON:
                print(json.dumps(each.as_dict(), ensure_ascii=False), flush=True)
            else:
                print("  ".join(str(cell) for cell in _row(each)), flush=True)
        for failure in failures:
            if failure not in said:
                say(f"not shown: {failure}")
        said = failures
        time.sleep(FOLLOW_S)


def _of_manager(rest: Rest, since: Since, now: float) -> list[Happening]:
    issues = rest.get("/v1/status").get("issues") or ()
    found = list(of_manager(rest.items("/v1/tasks"), issues, now))
    # A manager of an older version remembers nothing.
    with suppress(NotFoundError):
        found += of_history(
            rest.items("/v1/events", since_s=max(0, int(since.known) - RECOUNTED_S))
        )
    return found


def _of_kubernetes(chosen: target.Target, since: Since, failures: list[str]) -> list[Happening]:
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
            found += _of_manager(rest, since, time.time())
    return found


@contextmanager
def _noted(
    failures: list[str], kinds: tuple[type[DrystoneError], ...] = (DrystoneError,)
) -> Iterator[None]:
    """Events are wanted most when no manager answers."""
    try:
        yield
    except kinds as error:
        failures.append(f"tasks and issues of the managers: {error}")


def _text(listed: list[Happening]) -> str:
    return table(("TIME", "LEVEL", "OBJECT", "REASON", "TIMES", "MESSAGE"), [*map(_row, listed)])


def _row(each: Happening) -> tuple[Any, ...]:
    message = " ".join(each.message.split())
    return each.time, each.level, each.object, each.reason, each.count, message
