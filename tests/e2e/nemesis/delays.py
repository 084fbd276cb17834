"""Which packet leaves when: delay, reordering and duplication, without clock or network."""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from tests.e2e.lib.shell import LabError

# At the 20,000 packets a second that the proxy can do: 0.2 s of traffic. More than the usual delay
# holds, and little enough that a flood is dropped as a full router would.
ROOM: Final = 4096
DELAY_MAX_MS: Final = 10_000.0  # beyond it is a cut
PERMILLE: Final = 1000

Path = tuple[str, str]  # from which group to which
Fate = Literal["passed", "delayed", "duplicated"]


@dataclass(frozen=True, slots=True)
class Delay:
    """How packets of one direction travel: each gets its own delay, so later ones overtake."""

    least_ms: float = 0.0
    most_ms: float = 20.0
    spike_permille: int = 50  # how many wait ``spike_ms`` instead
    spike_ms: float = 200.0
    duplicate_permille: int = 0
    in_order: bool = False  # a long line instead of a bad one

    def __post_init__(self) -> None:
        if not 0 <= self.least_ms <= self.most_ms <= DELAY_MAX_MS:
            raise LabError(f"delays are 0 <= least <= most <= {DELAY_MAX_MS:.0f} ms: {self}")
        if not 0 <= self.spike_ms <= DELAY_MAX_MS:
            raise LabError(f"a spike is 0 to {DELAY_MAX_MS:.0f} ms: {self}")
        if not all(
            0 <= share <= PERMILLE for share in (self.spike_permille, self.duplicate_permille)
        ):
            raise LabError(f"shares are 0 to {PERMILLE} of 1000 packets: {self}")


@dataclass(slots=True)
class Counts:
    """What happened to packets since the start."""

    delayed: int = 0  # waited, and left
    reordered: int = 0  # left after one of its path that had come later
    duplicated: int = 0  # second copies that left
    overflowed: int = 0  # found no room
    stray: int = 0  # for no group: the proxy drops them

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return asdict(self)


@dataclass(order=True, slots=True)
class _Waiting:
    leaves: float
    number: int
    path: Path = field(compare=False)
    packet: bytes = field(compare=False)
    fate: Fate = field(compare=False)


class Queue:
    """Packets that wait. Times are seconds of any one clock; chance decides by its seed."""

    def __init__(self, chance: random.Random, room: int = ROOM) -> None:
        self.counts = Counts()
        self._chance = chance
        self._room = room
        self._delays: dict[Path, Delay] = {}
        self._waiting: list[_Waiting] = []
        self._number = 0
        self._last_leaves: dict[Path, float] = {}
        self._last_left: dict[Path, int] = {}

    def set(self, delays: Mapping[Path, Delay]) -> None:
        """Replace all delays. What waits keeps the time it was given."""
        self._delays = dict(delays)

    @property
    def next_at(self) -> float | None:
        """When the next packet leaves."""
        return self._waiting[0].leaves if self._waiting else None

    def take(self, now: float, path: Path, packet: bytes) -> None:
        """A packet came. A path without a delay lets it leave at once."""
        delay = self._delays.get(path)
        self._number += 1
        if delay is None:
            self._put(now, path, packet, "passed")
            return
        self._put(self._leaves(now, path, delay), path, packet, "delayed")
        if self._happens(delay.duplicate_permille):
            self._put(self._leaves(now, path, delay), path, packet, "duplicated")

    def due(self, now: float) -> Iterator[tuple[str, bytes]]:
        """Packets that leave by now, each with the group it goes to."""
        while self._waiting and self._waiting[0].leaves <= now:
            one = heapq.heappop(self._waiting)
            self._count(one)
            yield one.path[1], one.packet

    def _put(self, leaves: float, path: Path, packet: bytes, fate: Fate) -> None:
        if len(self._waiting) >= self._room:
            self.counts.overflowed += 1
            return
        heapq.heappush(self._waiting, _Waiting(leaves, self._number, path, packet, fate))

    def _leaves(self, now: float, path: Path, delay: Delay) -> float:
        if self._happens(delay.spike_permille):
            leaves = now + delay.spike_ms / 1000
        else:
            leaves = now + self._chance.uniform(delay.least_ms, delay.most_ms) / 1000
        if delay.in_order:
            leaves = max(leaves, self._last_leaves.get(path, leaves))
        self._last_leaves[path] = leaves
        return leaves

    def _happens(self, permille: int) -> bool:
        return self._chance.randrange(PERMILLE) < permille

    def _count(self, one: _Waiting) -> None:
        if one.fate == "duplicated":
            self.counts.duplicated += 1
            return
        last = self._last_left.get(one.path, 0)
        self._last_left[one.path] = max(last, one.number)
        if one.fate == "delayed":
            self.counts.delayed += 1
            self.counts.reordered += one.number < last


def from_json(rows: Any) -> dict[Path, Delay]:
    """Delays as `to_json` wrote them."""
    try:
        return {(str(src), str(dst)): Delay(**fields) for src, dst, fields in rows}
    except (TypeError, ValueError) as error:
        raise LabError(f"not a list of delays: {error}") from error


def to_json(delays: Mapping[Path, Delay]) -> list[Any]:
    """For the proxy's socket."""
    return [[src, dst, asdict(delay)] for (src, dst), delay in delays.items()]
