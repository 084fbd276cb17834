"""What goes into a bundle from the managers' REST, and how a part is asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from drystone_common.errors import InvalidArgumentError
from drystone_storaged.agent.rest import Rest, segment

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
NODES_MAX: Final = 200  # nodes whose devices are asked for one by one
ITEMS_MAX: Final = 20_000  # of a kind: nobody reads more, and they lie in memory at once


@dataclass(frozen=True, slots=True)
class Part:
    """One file of the bundle. ``read`` gives a text or an object; what it raises is noted."""

    path: str
    read: Callable[[], Any]


def rest_parts(rest: Rest) -> Iterator[Part]:
    """Everything that may be read of the managers."""
    for name in ("health", "cluster", "status", "map"):
        yield Part(f"rest/{name}.json", _object(rest, f"/v1/{name}"))
    for name in ("nodes", "drives", "pools", "volumes", "tasks", "events"):
        yield Part(f"rest/{name}.json", _list(rest, f"/v1/{name}"))
    yield Part("rest/devices.json", lambda: devices(rest))


def devices(rest: Rest) -> dict[str, Any]:
    """Devices and wanted drives of every storage node."""
    nodes = [n["name"] for n in rest.items("/v1/nodes") if n.get("role") == "server"]
    return {
        name: {
            what: rest.get(f"/v1/nodes/{segment(name)}/{what}") for what in ("devices", "drives")
        }
        for name in nodes[:NODES_MAX]
    }


def _object(rest: Rest, path: str) -> Callable[[], Any]:
    return lambda: rest.get(path)


def _list(rest: Rest, path: str) -> Callable[[], Any]:
    return lambda: listed(rest.items(path))


def listed(items: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """A list as one object; what is beyond the limit is left out, and it says so."""
    found = list(islice(items, ITEMS_MAX + 1))
    if len(found) <= ITEMS_MAX:
        return {"items": found}
    return {"cut": f"there are more than these {ITEMS_MAX}", "items": found[:ITEMS_MAX]}


def parse_since(text: str) -> int:
    """``90s``, ``30m``, ``2h``, ``1d`` in seconds."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text.strip())
    seconds = int(match[1]) * UNITS[match[2]] if match else 0
    if seconds <= 0:
        raise InvalidArgumentError(
            f"{text!a} is not a length of time",
            code="invalid_duration",
            hint="write it like 90s, 30m, 2h or 1d",
        )
    return seconds
