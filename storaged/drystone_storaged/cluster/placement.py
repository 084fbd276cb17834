"""What the placement is asked: candidates, their failure domains, and how many PGs to place.

The placement itself is the engine's (``native``). Its result is stored in the map and never
recomputed by anybody, so it may change freely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PlacementDrive:
    """A candidate: its share grows with weight, its domain holds at most one copy of a PG."""

    id: int
    domain: str
    weight: float


@dataclass(frozen=True, slots=True)
class PlacementSpec:
    """What to place."""

    pool: int
    pg_count: int
    copies: int
    drives: tuple[PlacementDrive, ...]
    current: tuple[tuple[int, ...], ...] = ()
    """Drives of every PG now: the fewest places change. Empty = a new pool."""
    closed: tuple[int, ...] = ()
    """Drives that keep what ``current`` gives them and get nothing more."""


def domains_of(drives: Sequence[PlacementDrive]) -> set[str]:
    """The failure domains of candidates."""
    return {drive.domain for drive in drives}


def width_of(spec: PlacementSpec) -> int:
    """Copies that distinct domains can hold."""
    return min(spec.copies, len(domains_of(spec.drives)))


def pg_count_for(drives: int, width: int) -> int:
    """64 x drives / width, rounded to a power of two, within 64 and 8192."""
    wanted = max(1.0, 64 * drives / max(1, width))
    return max(64, min(8192, 1 << round(math.log2(wanted))))
