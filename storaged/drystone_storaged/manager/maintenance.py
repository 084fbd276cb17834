"""Maintenance as the leader grants it, and its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from drystone_common.errors import ConflictError, InvalidArgumentError
from drystone_common.logs import get_logger
from drystone_storaged.cluster import keys, maintenance
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.leadership import Leadership
from drystone_storaged.cluster.maintenance import Refusal
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.records import Maintenance, Node, Voters
from drystone_storaged.cluster.store import Compare, Delete, MetadataStore, Put
from drystone_storaged.cluster.txn import read_all, read_record
from drystone_storaged.manager.bell import BACKSTOP_S, Bell
from drystone_storaged.manager.control.sessions import SessionRegistry
from drystone_storaged.manager.mapfeed import MapFeed

log = get_logger(__name__)

LOOK_S: Final = 5.0  # while a record stands: it may be over, and nothing else tells


@dataclass(frozen=True, slots=True)
class DeskDeps:
    """What the desk works with."""

    store: MetadataStore
    leadership: Leadership
    sessions: SessionRegistry
    feed: MapFeed
    wall: Callable[[], float]
    note: Callable[[str, str, str], None]
    """Takes kind, object and message of an event."""


class MaintenanceDesk:
    """Grants, ends, and forgets what is over."""

    def __init__(self, deps: DeskDeps) -> None:
        self._deps = deps
        # Two at once would each be granted for what the other one leaves.
        self._busy = asyncio.Lock()
        self.bell = Bell()

    async def begin(
        self, node: Node, for_s: int, reason: str, *, force: bool
    ) -> tuple[Maintenance, bool]:
        """Grant it, or prolong what stands; gives whether it is new."""
        if not maintenance.FOR_MIN_S <= for_s <= maintenance.FOR_MAX_S:
            raise InvalidArgumentError(
                f"a maintenance lasts {maintenance.FOR_MIN_S} s to 7 days, not {for_s} s",
                code="invalid_duration",
                hint="for longer, move what the node holds to others",
            )
        async with self._busy:
            now = self._deps.wall()
            cluster = await self._cluster(now)
            self._check(await self._deps.feed.read(), cluster, node, force=force)
            old = cluster.records.get(node.uuid)
            goes_on = old is not None and not old.ended
            begun = old.begun_s if old is not None and goes_on else int(now)
            record = Maintenance(node.uuid, int(now) + for_s, reason, begun)
            await self._deps.store.txn([], [Put(keys.maintenance(node.uuid), encode(record))])
        self.bell.ring()
        log.info("maintenance begins", node=node.name, until_s=record.until_s, reason=reason)
        said = f"for {for_s} s at most: {reason}" if reason else f"for {for_s} s at most"
        self._deps.note("maintenance_begins", f"node {node.name}", said)
        return record, not goes_on

    async def end(self, node: Node) -> None:
        """Somebody says that it is over; the node's ``out_time`` counts from now."""
        async with self._busy:
            now = int(self._deps.wall())
            found = await read_record(self._deps.store, keys.maintenance(node.uuid), Maintenance)
            if found is None or found[0].ended:
                return
            until = min(found[0].until_s, now)
            record = replace(found[0], until_s=until, ended=True)
            await self._deps.store.txn([], [Put(keys.maintenance(node.uuid), encode(record))])
        self.bell.ring()
        log.info("maintenance was ended", node=node.name)
        self._deps.note("maintenance_ended", f"node {node.name}", "somebody said that it is over")

    async def run(self) -> None:
        """Forget what is over and whose node is back; a record that stays is told of."""
        while True:
            left = await self.tidy() if self._deps.leadership.leads else False
            await self.bell.wait(LOOK_S if left else BACKSTOP_S)

    async def tidy(self) -> bool:
        """One look; gives whether a record is left."""
        records = await maintenance.standing(self._deps.store)
        if not records:
            return False
        now, state = self._deps.wall(), await self._deps.feed.read()
        over = {n: r for n, r in records.items() if not maintenance.lasts(r, now)}
        for node in over:
            here = self._deps.sessions.get(("server", node)) is not None
            if here and maintenance.is_back(state, node):
                await self._forget(node)
                del records[node]
        return bool(records)

    async def _forget(self, node: str) -> None:
        async with self._busy:
            found = await read_record(self._deps.store, keys.maintenance(node), Maintenance)
            # It may have been prolonged meanwhile.
            if found is None or maintenance.lasts(found[0], self._deps.wall()):
                return
            same = Compare.mod(keys.maintenance(node), found[1].mod_revision)
            await self._deps.store.txn([same], [Delete(keys.maintenance(node))])
        log.info("maintenance is over", node=node)

    async def _cluster(self, now: float) -> maintenance.Cluster:
        deps = self._deps
        voters = await read_record(deps.store, keys.VOTERS, Voters)
        servers = await read_all(deps.store, keys.NODES, Node)
        return maintenance.Cluster(
            servers,
            voters[0] if voters else Voters(1),
            frozenset(n.uuid for n in servers if self._alive(n)),
            await maintenance.standing(deps.store),
            now,
        )

    def _alive(self, node: Node) -> bool:
        """Its server is there, and its beacon where that is a process of its own."""
        server = self._deps.sessions.get(("server", node.uuid)) is not None
        apart = node.page_instance != 0
        return server and (not apart or self._deps.sessions.get(("beacon", node.uuid)) is not None)

    @staticmethod
    def _check(state: MapState, cluster: maintenance.Cluster, node: Node, *, force: bool) -> None:
        state.require()  # what would be left of a pool that cannot be read is not known
        found = maintenance.refusal(state, cluster, node)
        if found is not None and not (force and found.forcible):
            raise unsafe(found)
        if found is not None:
            log.warning("maintenance is forced", node=node.name, reason=found.text)


def unsafe(found: Refusal) -> ConflictError:
    """The error of a refused maintenance."""
    return ConflictError(
        found.text,
        code="maintenance_unsafe",
        hint=found.hint,
        details={
            "why": found.why,
            "count": found.count,
            "example": found.example,
            "forcible": found.forcible,
        },
    )


def maintenance_json(record: Maintenance | None, now_s: float) -> dict[str, Any] | None:
    """As REST shows it."""
    if record is None:
        return None
    return {
        "begun_s": record.begun_s,
        "until_s": record.until_s,
        "reason": record.reason,
        "overdue": maintenance.overdue(record, now_s),
        "ended": record.ended,
    }
