"""Who votes on silence: every storage node, changed one at a time (§4.5, B14).

Two lists that differ by one node have majorities that meet, so a node that still uses the older
list cannot keep a lease by a majority that the newer one knows nothing of. The next change
therefore waits until every node that may hold a lease uses the newest list.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from drystone_common.logs import get_logger
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.leadership import Leadership
from drystone_storaged.cluster.mapstate import read_state
from drystone_storaged.cluster.nodes import NodeService, change_voters
from drystone_storaged.cluster.records import Voters
from drystone_storaged.cluster.store import MetadataStore
from drystone_storaged.cluster.txn import read_record
from drystone_storaged.manager.bell import BACKSTOP_S, Bell
from drystone_storaged.manager.control.sessions import SessionRegistry
from drystone_storaged.proto import control_pb2 as pb

LOOK_S: Final = 1.0
"""While a change waits: a node may stop to count without an event (its last in-sync copy was
dropped)."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class VoterDeps:
    """What the keeper works with."""

    store: MetadataStore
    leadership: Leadership
    nodes: NodeService
    sessions: SessionRegistry
    manager: str


class VoterKeeper:
    """Brings the stored list to the registered servers, and every beacon to the stored list."""

    def __init__(self, deps: VoterDeps) -> None:
        self._deps = deps
        self._known: dict[str, int] = {}
        self._busy = asyncio.Lock()
        self._change_waits = False
        self.bell = Bell()

    def reported(self, node: str, version: int) -> None:
        """A beacon uses this version of the list."""
        if self._known.get(node) != version:
            self._known[node] = version
            self.bell.ring()

    def reset(self) -> None:
        """What beacons use has to be heard anew."""
        self._known.clear()

    async def run(self) -> None:
        """Look at every event, and each second while a change waits."""
        while True:
            if self._deps.leadership.leads:
                await self.settle()
            await self.bell.wait(LOOK_S if self._change_waits else BACKSTOP_S)

    async def settle(self) -> None:
        """Make every change that is possible now."""
        async with self._busy:
            while (voters := await self._step()) is not None:
                log.info("voters changed", version=voters.version, voters=len(voters.nodes))
                await self._tell(voters)

    async def registered(self) -> None:
        """A server or beacon registered: the node votes, and may listen elsewhere than before."""
        await self.settle()
        await self._tell(await self.current())

    async def welcome(self, revision: int) -> pb.SessionDown:
        """The greeting of a server's or beacon's session, with the newest list."""
        return await self._message(await self.current(), revision)

    async def current(self) -> Voters:
        """The stored list."""
        found = await read_record(self._deps.store, keys.VOTERS, Voters)
        return found[0] if found else Voters(1)

    async def _step(self) -> Voters | None:
        """Add or remove one node; None = nothing to do, or somebody uses an older list."""
        wanted = [n.uuid for n in await self._deps.nodes.list("server")]
        voters = await self.current()
        missing = next((n for n in wanted if n not in voters.nodes), None)
        surplus = next((n for n in voters.nodes if n not in wanted), None)
        self._change_waits = (missing or surplus) is not None
        if not self._change_waits or not await self._settled(voters, wanted):
            return None
        if missing is not None:
            nodes = (*voters.nodes, missing)
        else:
            nodes = tuple(n for n in voters.nodes if n != surplus)
        return await change_voters(self._deps.store, voters, nodes)

    async def _settled(self, voters: Voters, wanted: list[str]) -> bool:
        """Whether every node that may hold a lease, or may get one, uses the newest list."""
        state = await read_state(self._deps.store)
        if state.unreadable_pools or state.unreadable_drives:
            return False  # who may hold a lease is not known
        insync = {drive for record in state.pgs().values() for drive in record.insync}
        holders = {d.node for d in state.drives.values() if d.id in insync}
        holders.update(s.key[1] for s in self._deps.sessions.all("server"))
        return all(self._known.get(n, 0) >= voters.version for n in holders.intersection(wanted))

    async def _tell(self, voters: Voters) -> None:
        # The revision is for a new session's first look only; here it asks for nothing.
        message = await self._message(voters, 0)
        for session in self._deps.sessions.beacons():
            session.send(message)

    async def _message(self, voters: Voters, revision: int) -> pb.SessionDown:
        nodes = {n.uuid: n for n in await self._deps.nodes.list("server")}
        listed = [
            pb.Voter(node=bytes.fromhex(u), name=nodes[u].name, beacon_addr=nodes[u].beacon_addr)
            for u in voters.nodes
            if u in nodes
        ]
        return pb.SessionDown(
            welcome=pb.Welcome(
                manager=self._deps.manager,
                map_revision=revision,
                voters=pb.Voters(version=voters.version, voters=listed),
            )
        )
