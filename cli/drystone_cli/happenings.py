"""What happened, from several sources, in one order. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

GROUP: Final = "drystone.io"
DRIVER: Final = "csi.drystone.io"
RECOUNTED_S: Final = 3600
"""Managers list events by their first time; one that is still counted up began before."""

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happened, or holds now."""

    time: str
    """UTC, ISO 8601; empty = not known."""
    level: str
    """`Normal` or `Warning`."""
    source: str
    """`kubernetes`, `manager`, `task` or `issue`."""
    object: str
    reason: str
    message: str
    count: int = 1

    @property
    def same(self) -> tuple[Any, ...]:
        """What tells it from every other one, and from itself when it was counted up."""
        return self.source, self.time, self.object, self.reason, self.count, self.message

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)


def of_kubernetes(items: Iterable[Json], cluster: str, namespace: str) -> Iterator[Happening]:
    """Events of our objects, and those that our driver posts about claims elsewhere."""
    for item in items:
        about = item.get("involvedObject") or item.get("regarding") or {}
        if not _ours(item, about, cluster, namespace):
            continue
        space = str(about.get("namespace") or "")
        name = f"{about.get('kind')}/{about.get('name')}"
        series = item.get("series") or {}
        yield Happening(
            time=_moment(item),
            level=str(item.get("type") or "Normal"),
            source="kubernetes",
            object=name if space in ("", namespace) else f"{space}/{name}",
            reason=str(item.get("reason") or ""),
            message=str(item.get("message") or item.get("note") or "").strip(),
            count=int(series.get("count") or item.get("count") or 1),
        )


def _ours(item: Json, about: Json, cluster: str, namespace: str) -> bool:
    if str(about.get("apiVersion") or "").startswith(f"{GROUP}/"):
        return True
    posted = str((item.get("source") or {}).get("component") or item.get("reportingComponent"))
    if DRIVER in posted:
        return True
    if (item.get("metadata") or {}).get("namespace") != namespace:
        return False
    return str(about.get("name") or "").startswith((f"{cluster}-", "drystone-"))


def _moment(item: Json) -> str:
    """The last time that it was seen."""
    series = item.get("series") or {}
    metadata = item.get("metadata") or {}
    stamps = (
        series.get("lastObservedTime"), item.get("lastTimestamp"), item.get("eventTime"),
        item.get("firstTimestamp"), metadata.get("creationTimestamp"),
    )  # fmt: skip
    return next((_utc(str(stamp)) for stamp in stamps if stamp), "")


def _utc(text: str) -> str:
    try:
        return _text(datetime.fromisoformat(text))
    except ValueError:
        return ""


def _text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def of_manager(tasks: Iterable[Json], issues: Iterable[str], now: float) -> Iterator[Happening]:
    """Long work when it was begun, and what is wrong now."""
    for task in tasks:
        begun = int(task.get("created_s") or 0)
        state = str(task.get("state"))
        said = str(task.get("message") or "")
        yield Happening(
            time=_text(datetime.fromtimestamp(begun, UTC)) if begun else "",
            level="Warning" if state == "failed" else "Normal",
            source="task",
            object=f"{task.get('kind')}/{task.get('subject')}",
            reason=state,
            message=f"task {task.get('id')}: {said}" if said else f"task {task.get('id')}",
        )
    for issue in issues:
        stamp = _text(datetime.fromtimestamp(now, UTC))
        yield Happening(stamp, "Warning", "issue", "cluster", "Issue", issue)


def of_history(events: Iterable[Json]) -> Iterator[Happening]:
    """What the managers remember, each at the last time that it happened."""
    for event in events:
        yield Happening(
            time=_text(datetime.fromtimestamp(int(event.get("last_s") or 0), UTC)),
            level=str(event.get("level") or "Normal"),
            source="manager",
            object=str(event.get("object") or ""),
            reason=str(event.get("kind") or ""),
            message=str(event.get("message") or ""),
            count=int(event.get("count") or 1),
        )


def merged(found: Iterable[Happening], since: float) -> list[Happening]:
    """In the order of time, from a moment on; what has no time comes first.

    Within a second each source keeps its own order: causes stand before what they led to.
    """
    start = _text(datetime.fromtimestamp(since, UTC))
    kept = [each for each in found if not each.time or each.time >= start]
    return sorted(kept, key=lambda each: (each.time, each.source))
