"""A cluster of any size in a store of its own, with every request to the store counted.

Nothing is simulated but the processes: records are written, read and changed by the services that
a manager runs.
"""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, cast

from drystone_storaged.cluster import keys
from drystone_storaged.cluster.bootstrap import ensure_cluster
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.drives import DriveService, OpenRequest
from drystone_storaged.cluster.health import HealthService
from drystone_storaged.cluster.ids import IdAllocator
from drystone_storaged.cluster.leadership import Leadership
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.membership_service import Evidence, MembershipService
from drystone_storaged.cluster.native import NATIVE
from drystone_storaged.cluster.nodes import NodeService, Registration
from drystone_storaged.cluster.pools import PoolService, PoolSpec
from drystone_storaged.cluster.records import Cluster, Drive, DriveState, Node, Volume
from drystone_storaged.cluster.store import (
    RANGE_LIMIT_MAX,
    Compare,
    Get,
    KeyValue,
    MetadataStore,
    Op,
    Put,
    RangeResult,
    TxnResult,
    View,
    WatchBatch,
)
from drystone_storaged.cluster.store_sqlite import SqliteStore
from drystone_storaged.cluster.volumes import VolumeService, VolumeSpec
from drystone_storaged.manager.commander import Commander
from drystone_storaged.manager.drivestats import DriveStats
from drystone_storaged.manager.failures import FailureJudge, JudgeDeps
from drystone_storaged.manager.mapfeed import MapFeed
from drystone_storaged.manager.probe import Liveness

MASTER: Final = bytes(range(32))
CAPACITY: Final = 16 << 40
CLONES_PER_TXN: Final = 30  # of four keys each


@dataclass(frozen=True, slots=True)
class Size:
    """As the architecture plans a cluster."""

    nodes: int = 63
    drives: int = 12
    pgs: int = 8192
    volumes: int = 100_000

    @property
    def all_drives(self) -> int:
        """Of all nodes."""
        return self.nodes * self.drives


@dataclass(frozen=True, slots=True)
class Txn:
    """One transaction that wrote."""

    operations: int
    compares: int
    size: int
    shards: int


@dataclass(slots=True)
class Counts:
    """What was asked of the store."""

    requests: int = 0
    keys_read: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    txns: list[Txn] = field(default_factory=list)
    cpu_s: float = 0.0

    def read(self, found: Sequence[KeyValue]) -> None:
        """Keys of an answer, by the first part of their name."""
        for one in found:
            self.keys_read["/" + one.key.split("/")[1] + "/"] += 1
            self.bytes_read += len(one.key) + len(one.value)


class CountingStore:
    """A store that keeps count; answers are those of the one below."""

    def __init__(self, below: MetadataStore) -> None:
        self._below = below
        self.counts = Counts()

    @property
    def shared(self) -> bool:
        """As below."""
        return self._below.shared

    async def get(self, key: str) -> KeyValue | None:
        """Counted."""
        self.counts.requests += 1
        found = await self._below.get(key)
        self.counts.read([found] if found else [])
        return found

    async def range(
        self,
        prefix: str,
        *,
        after: str = "",
        limit: int = RANGE_LIMIT_MAX,
        min_mod_revision: int = 0,
    ) -> RangeResult:
        """Counted."""
        self.counts.requests += 1
        page = await self._below.range(
            prefix, after=after, limit=limit, min_mod_revision=min_mod_revision
        )
        self.counts.read(page.items)
        return page

    async def view(self, wanted: Sequence[str], prefixes: Sequence[str]) -> View:
        """Counted."""
        self.counts.requests += 1
        found = await self._below.view(wanted, prefixes)
        self.counts.read([kv for kv in found.keys if kv is not None])
        for part in found.prefixes:
            self.counts.read(part)
        return found

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()
    ) -> TxnResult:
        """Counted; its size as the limit of etcd counts it."""
        self.counts.requests += 1
        done = await self._below.txn(compares, then, otherwise)
        if done.succeeded and not all(isinstance(op, Get) for op in then):
            named = [op.key for op in then] + [one.key for one in compares]
            size = sum(map(len, named)) + sum(len(op.value) for op in then if isinstance(op, Put))
            shards = sum("/map/" in op.key for op in then)
            self.counts.txns.append(Txn(len(then), len(compares), size, shards))
        return done

    async def revision(self) -> int:
        """Counted."""
        self.counts.requests += 1
        return await self._below.revision()

    def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[WatchBatch]:
        """As below."""
        return self._below.watch(prefix, from_revision)

    async def lease_grant(self, ttl_s: float) -> int:
        """As below."""
        return await self._below.lease_grant(ttl_s)

    async def lease_keepalive(self, lease: int) -> None:
        """As below."""
        await self._below.lease_keepalive(lease)

    async def lease_revoke(self, lease: int) -> None:
        """As below."""
        await self._below.lease_revoke(lease)

    async def compact(self, revision: int) -> None:
        """As below."""
        await self._below.compact(revision)

    async def close(self) -> None:
        """As below."""
        await self._below.close()

    @contextmanager
    def counting(self) -> Iterator[Counts]:
        """Count from here to the end of the block, and its processor time."""
        counts = self.counts = Counts()
        began = time.process_time()
        yield counts
        counts.cpu_s = time.process_time() - began
        self.counts = Counts()  # what comes now is nobody's


class EveryoneListens:
    """Probes are counted; nothing is connected to."""

    def __init__(self) -> None:
        self.probes = 0

    async def probe(self, address: str) -> Liveness:
        """Somebody is there."""
        del address
        self.probes += 1
        return Liveness.LISTENING


class World:
    """The services of a manager over one store."""

    def __init__(self, store: CountingStore, cluster: Cluster, size: Size) -> None:
        self.size = size
        self.store = store
        self.cluster = cluster
        self.now = 1000.0
        self.ids = IdAllocator(store)
        self.nodes = NodeService(store)
        self.drives = DriveService(store, self.ids)
        self.pools = PoolService(store, self.ids, NATIVE)
        self.volumes = VolumeService(store, self.ids, self.pools)
        self.leadership = Leadership(store, "manager-1")

        def clock() -> float:
            return self.now

        self.membership = MembershipService(store, self.leadership, monotonic=clock, wall=clock)
        self.prober = EveryoneListens()
        self.feed = MapFeed(store)
        self.servers: list[Node] = []
        self.judge = FailureJudge(
            JudgeDeps(
                store, self.membership, self.drives, HealthService(store, clock),
                cast("Commander", None), self.prober, DriveStats(clock), clock,
                joiner_failed=lambda _: None, connected=lambda _: True,
                still=_no,
            )
        )  # fmt: skip

    async def state(self) -> MapState:
        """The whole map."""
        return await read_state(self.store)

    async def add_node(self, number: int) -> Node:
        """A storage node with its drives, all up."""
        name = f"node-{number}"
        token = f"token-of-{name}-0123456789"
        await self.nodes.add_join_token(token, "server")
        made = Node(name, uuid.uuid5(uuid.NAMESPACE_DNS, name).hex,
                    beacon_addr=f"10.0.{number}.1:8470")  # fmt: skip
        node = await self.nodes.register(Registration("server", made, token))
        for slot in range(self.size.drives):
            await self.open_drive(node, number, slot, nonce=1 + slot)
        self.servers.append(node)
        return node

    async def open_drive(
        self,
        node: Node,
        number: int,
        slot: int,
        nonce: int,
        previous: int = 0,
        *,
        look: bool = False,
    ) -> Drive:
        """As a server does at its start: open, then report ready.

        ``look``: with the looks at the map of both calls.
        """
        name = f"{node.name}/{slot}"
        request = OpenRequest(
            str(uuid.uuid5(uuid.NAMESPACE_OID, name)), f"serial-{name}", nonce, previous, CAPACITY,
            f"10.0.{number}.1:{8500 + slot}", 1, 1, self.cluster.uuid,
        )  # fmt: skip
        opened = await self.drives.open(node, request, lambda _: False)
        if look:
            await self.feed.read()
        ready = await self.drives.report(node, opened.drive.id, nonce, DriveState.UP, "")
        if look:
            await self.feed.read()
        return ready

    async def drop_node(self, node: Node) -> None:
        """Its beacon was silent to a majority."""
        await self.judge.drop_node(node.uuid, Evidence("silent to a majority", self.now))

    async def reopen_node(self, node: Node) -> None:
        """Its server is back."""
        number = self.servers.index(node) + 1
        for slot in range(self.size.drives):
            await self.open_drive(node, number, slot, nonce=1000 + slot, previous=1 + slot)

    async def promote_node(self, node: Node) -> None:
        """Every copy of its drives is complete."""
        state = await self.state()
        done: dict[PgRef, list[tuple[int, int]]] = {}
        for ref, record in state.known_pgs().items():
            mine = [j.drive for j in record.joining if state.drives[j.drive].node == node.uuid]
            if mine:
                done[ref] = [(drive, record.epoch) for drive in mine]
        await self.membership.promote(done)

    async def clone_volumes(self, count: int) -> None:
        """As many volumes, each with its keys as the service writes them for one."""
        first, _ = await self.volumes.create(VolumeSpec("v-0", 1 << 40))
        stored = await self.store.get(keys.volume(first.id))
        layer = await self.store.get(keys.layer(first.head))
        if stored is None or layer is None:
            raise RuntimeError("the volume that was just made is not there")
        volume = decode(Volume, stored.value)
        for start in range(1, count, CLONES_PER_TXN):
            ops: list[Op] = []
            for number in range(start, min(start + CLONES_PER_TXN, count)):
                made = replace(volume, id=volume.id + 2 * number, name=f"v-{number}")
                ops += [
                    Put(keys.name("volume", made.name), f"{made.id:016x}".encode()),
                    Put(keys.volume(made.id), encode(made)),
                    Put(keys.layer(made.id + 1), layer.value),
                ]
            await self.store.txn([], ops)


async def _no(_node: str) -> bool:
    return False


@asynccontextmanager
async def world(folder: Path, size: Size) -> AsyncIterator[World]:
    """Nodes, drives and one pool of all of them; volumes are made by whoever wants some."""
    below: Any = await SqliteStore.open(folder / "m.db")
    store = CountingStore(below)
    try:
        cluster = await ensure_cluster(store, uuid.UUID(int=5), 0, MASTER)
        made = World(store, cluster, size)
        if not await made.leadership.campaign():
            raise RuntimeError("nobody else is there, and this manager does not lead")
        for number in range(1, size.nodes + 1):
            await made.add_node(number)
        await made.pools.create(PoolSpec("default", 3, 2, pg_count=size.pgs))
        yield made
    finally:
        await store.close()
