"""Where every pool's placement groups shall be: asked once for each set of drives, then followed.

An aim is kept until it is reached or the drives change. Each of its moves then makes the way to it
shorter, which a new aim after every move would not: so moving always comes to an end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.moves import Aim
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.placement import PlacementSpec
from drystone_storaged.cluster.places import domains, standing_spec
from drystone_storaged.cluster.records import Node, Pool

Place = Callable[[PlacementSpec], Sequence[tuple[int, ...]]]


@dataclass(slots=True)
class _Known:
    """What was asked, what stood then or was moved since, and what was answered."""

    asked: PlacementSpec
    stands: list[tuple[int, ...]]
    wanted: Sequence[tuple[int, ...]]


class Aims:
    """The aim of each pool."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._known: dict[int, _Known] = {}

    async def of(
        self, pool: Pool, state: MapState, nodes: Mapping[str, Node], *, balance: bool
    ) -> Aim | None:
        """The aim of a pool; None where nobody can tell."""
        spec = standing_spec(pool, state, nodes, frozenset())
        if spec is None:
            return None
        known = self._known.get(pool.id)
        asked = replace(spec, current=())
        if known is None or known.asked != asked or known.stands != list(spec.current):
            wanted = await self.place(spec)
            known = self._known[pool.id] = _Known(asked, list(spec.current), wanted)
        return Aim(known.wanted, domains(pool, state, nodes), balance)

    async def place(self, spec: PlacementSpec) -> Sequence[tuple[int, ...]]:
        """Ask the placement, beside the loop that leases and commands live on: it takes seconds."""
        return await asyncio.to_thread(self._place, spec)

    def moved(self, changed: Mapping[PgRef, PgRecord]) -> None:
        """These places changed as the aim wants it."""
        for ref, record in changed.items():
            if ref.pool in self._known:
                self._known[ref.pool].stands[ref.pg] = record.target

    def clear(self) -> None:
        """Nothing is known."""
        self._known.clear()
