"""A cluster without processes: every service over one SQLite store, time in the test's hands."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drystone_storaged.cluster.attach import AttachService, Caller
from drystone_storaged.cluster.bootstrap import ensure_cluster
from drystone_storaged.cluster.drives import DriveService, OpenRequest
from drystone_storaged.cluster.fence import FenceService
from drystone_storaged.cluster.ids import IdAllocator
from drystone_storaged.cluster.leadership import Leadership
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.membership_service import MembershipService
from drystone_storaged.cluster.native import NATIVE
from drystone_storaged.cluster.nodes import NodeService, Registration
from drystone_storaged.cluster.orders import OrderService
from drystone_storaged.cluster.pools import PoolService, PoolSpec
from drystone_storaged.cluster.records import AttachMode, Cluster, Drive, DriveState, Node, Volume
from drystone_storaged.cluster.store import MetadataStore
from drystone_storaged.cluster.store_sqlite import SqliteStore
from drystone_storaged.cluster.volumes import VolumeService, VolumeSpec
from tests.storaged.metadata_conformance import FakeClock, LossyStore

MASTER = bytes(range(32))
GIB = 1 << 30


@dataclass
class FakeServers:
    """Stands for every server: seals and frees what it is asked, except on silent drives."""

    silent: set[int] = field(default_factory=set)
    sealed: dict[tuple[int, int], int] = field(default_factory=dict)
    freed: list[tuple[int, int]] = field(default_factory=list)
    why: str = ""
    deaf: set[int] = field(default_factory=set)
    """Volumes that no server seals."""

    def why_unfenced(self, nodes):
        return self.why

    async def fence(self, volume, drives, map_revision):
        answers: dict[int, Any] = {}
        if volume.id in self.deaf:
            return answers
        for number in itertools.chain.from_iterable(drives.values()):
            if number not in self.silent:
                key = (volume.id, number)
                self.sealed[key] = max(self.sealed.get(key, 0), volume.generation)
                answers[number] = self.sealed[key]
        return answers

    async def free_layer(self, order, drives):
        numbers = set(itertools.chain.from_iterable(drives.values())) - self.silent
        self.freed += [(order.layer, number) for number in sorted(numbers)]
        return numbers


class Env:
    """The services; see the module."""

    def __init__(self, store: MetadataStore, cluster: Cluster, clock: FakeClock) -> None:
        self.clock = clock
        self.lossy = LossyStore(store)
        self.store: MetadataStore = self.lossy
        self.cluster = cluster
        self.servers = FakeServers()
        self.ids = IdAllocator(self.store)
        self.nodes = NodeService(self.store)
        self.drives = DriveService(self.store, self.ids)
        self.pools = PoolService(self.store, self.ids, NATIVE)
        self.volumes = VolumeService(self.store, self.ids, self.pools)
        self.attach = AttachService(self.volumes, NATIVE, MASTER, 1)
        self.leadership = Leadership(self.store, "manager-1")
        self.membership = MembershipService(
            self.store, self.leadership, monotonic=clock, wall=clock
        )
        nonces = itertools.count(1 << 40)
        self.fence = FenceService(
            self.store,
            self.volumes,
            self.servers,
            monotonic=clock,
            random_nonce=lambda: next(nonces),
            proof_s=0.0,
            poll_s=0.0,
        )
        self.orders = OrderService(self.store, self.servers)

    async def state(self) -> MapState:
        return await read_state(self.store)

    async def add_node(self, name: str, role: str = "server") -> Node:
        token = f"token-of-{name}-0123456789"
        await self.nodes.add_join_token(token, role)  # type: ignore[arg-type]
        node = Node(name, uuid.uuid5(uuid.NAMESPACE_DNS, name).hex)
        return await self.nodes.register(Registration(role, node, token))  # type: ignore[arg-type]

    def open_request(self, name: str, nonce: int, previous: int = 0, **changes) -> OpenRequest:
        fields: dict[str, Any] = {
            "uuid": str(uuid.uuid5(uuid.NAMESPACE_OID, name)),
            "serial": f"serial-{name}",
            "nonce": nonce,
            "previous_nonce": previous,
            "capacity": 8 * GIB,
            "addr": "127.0.0.1:9",
            "incarnation": 1,
            "highest_revision": 1,
            "cluster": self.cluster.uuid,
        }
        return OpenRequest(**(fields | changes))

    async def add_drive(self, node: Node, name: str, nonce: int = 7) -> Drive:
        opened = await self.drives.open(node, self.open_request(name, nonce), lambda _: False)
        return await self.drives.report(node, opened.drive.id, nonce, DriveState.UP, "")

    async def add_servers(self, count: int) -> list[Drive]:
        drives = []
        for i in range(1, count + 1):
            node = await self.add_node(f"node-{i}")
            drives.append(await self.add_drive(node, f"drive-{i}"))
        return drives

    async def add_volume(self, name: str = "v") -> Volume:
        volume, _ = await self.volumes.create(VolumeSpec(name, GIB))
        return volume

    async def attached(self, volume: Volume, who: Caller, nonce: int, mode=AttachMode.READ_WRITE):
        await self.fence.publish(volume.id, who.node, mode)
        return await self.attach.attach(who, volume.id, mode, nonce)


def caller(number: int) -> Caller:
    return Caller(f"{number:032x}", f"block-{number}")


@contextlib.asynccontextmanager
async def cluster(path: Path, servers: int = 3, *, pool: bool = True) -> AsyncIterator[Env]:
    clock = FakeClock()
    store = await SqliteStore.open(path / "m.db", clock=clock)
    try:
        identity = await ensure_cluster(store, uuid.UUID(int=5), 0, MASTER)
        env = Env(store, identity, clock)
        assert await env.leadership.campaign()
        await env.add_servers(servers)
        if pool:
            await env.pools.create(PoolSpec("default", 3, 2))
        yield env
    finally:
        await store.close()
