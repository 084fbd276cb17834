"""Which drives a pool's PGs want: weighted rendezvous, then a smoothing pass.

The result is stored in the map and never recomputed by anybody, so this may change freely.
Pure and deterministic: the same drives give the same placement.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from drystone_common.errors import ConflictError

ROUNDS_MAX: Final = 64  # of smoothing: each moves every movable slot once; far fewer are needed
GAIN_MIN: Final = 1.001  # a little above 1, so that rounding cannot move a slot in circles


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


def domains_of(drives: Sequence[PlacementDrive]) -> dict[str, float]:
    """Total weight of each failure domain."""
    totals: dict[str, float] = {}
    for drive in drives:
        totals[drive.domain] = totals.get(drive.domain, 0.0) + drive.weight
    return totals


def width_of(spec: PlacementSpec) -> int:
    """Copies that distinct domains can hold."""
    return min(spec.copies, len(domains_of(spec.drives)))


def clip_weights(spec: PlacementSpec) -> dict[int, float]:
    """Weights with each domain clipped to total / width: more it cannot use, one copy a PG."""
    totals = domains_of(spec.drives)
    bound = _clip_bound(sorted(totals.values(), reverse=True), width_of(spec))
    return {d.id: d.weight * min(1.0, bound / totals[d.domain]) for d in spec.drives}


def _clip_bound(ordered: list[float], width: int) -> float:
    """Solve bound = sum(min(weight, bound)) / width, largest weights first."""
    # With the k largest clipped: bound = (k * bound + rest) / width.
    for k in range(width):
        bound = sum(ordered[k:]) / (width - k)
        if ordered[k] <= bound * (1 + 1e-12):
            return bound
    return ordered[-1]


def place_pool(spec: PlacementSpec) -> list[tuple[int, ...]]:
    """Give each PG ``width`` drives of distinct domains, in order of preference."""
    width = width_of(spec)
    if width == 0:
        raise ConflictError(
            "no drive is available for the pool",
            code="no_drives",
            hint="start storage servers and wait until `drystone drive list` shows drives up",
        )
    weights = clip_weights(spec)
    domain = {d.id: d.domain for d in spec.drives}
    placed = [_rendezvous(spec.pool, pg, width, weights, domain) for pg in range(spec.pg_count)]
    _smooth(placed, weights, domain)
    return [tuple(pg) for pg in placed]


def _rendezvous(
    pool: int, pg: int, width: int, weights: dict[int, float], domain: dict[int, str]
) -> list[int]:
    scored = sorted(weights, key=lambda d: (-_score(pool, pg, d, weights[d]), d))
    chosen: list[int] = []
    used: set[str] = set()
    for drive in scored:
        if domain[drive] not in used:
            chosen.append(drive)
            used.add(domain[drive])
            if len(chosen) == width:
                break
    return chosen


def _score(pool: int, pg: int, drive: int, weight: float) -> float:
    digest = hashlib.blake2b(
        b"%d/%d/%d" % (pool, pg, drive), digest_size=8, usedforsecurity=False
    ).digest()
    # 53 bits: what a float holds exactly; never 0 or 1.
    uniform = ((int.from_bytes(digest, "little") >> 11) + 0.5) / (1 << 53)
    return -weight / math.log(uniform)


def _smooth(placed: list[list[int]], weights: dict[int, float], domain: dict[int, str]) -> None:
    total_weight = sum(weights.values())
    slots = sum(len(pg) for pg in placed)
    share = {d: slots * w / total_weight for d, w in weights.items()}
    count = dict.fromkeys(weights, 0)
    for pg in placed:
        for drive in pg:
            count[drive] += 1
    over = {d: count[d] - share[d] for d in weights}
    for _ in range(ROUNDS_MAX):
        # A list, not a generator: every PG is tried in every round.
        if sum([_move(pg, over, domain) for pg in placed]) == 0:
            return


def _move(pg: list[int], over: dict[int, float], domain: dict[int, str]) -> bool:
    """Move the one slot of a PG that gains most; False = none gains."""
    best: tuple[float, int, int] | None = None
    for drive in pg:
        used = {domain[d] for d in pg if d != drive}
        for other, excess in over.items():
            gain = over[drive] - excess
            # Above 1 the sum of squares of the excesses falls with every move: the passes end.
            if gain > GAIN_MIN and other not in pg and domain[other] not in used:
                best = max(best or (0.0, 0, 0), (gain, drive, other))
    if best is None:
        return False
    _, leaving, coming = best
    pg[pg.index(leaving)] = coming
    over[leaving] -= 1
    over[coming] += 1
    return True


def pg_count_for(drives: int, width: int) -> int:
    """64 x drives / width, rounded to a power of two, within 64 and 8192."""
    wanted = max(1.0, 64 * drives / max(1, width))
    return max(64, min(8192, 1 << round(math.log2(wanted))))
