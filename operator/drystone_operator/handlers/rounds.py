"""One round over a StorageCluster: observe, plan, apply, say. Started by any event or by time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from drystone_common.errors import ConflictError, DataError, DrystoneError, InvalidArgumentError
from drystone_common.logs import get_logger
from drystone_operator import names
from drystone_operator.apply.executor import Executor
from drystone_operator.apply.interface import Kube
from drystone_operator.handlers import node_work, observe, parse
from drystone_operator.handlers.managers import Managers
from drystone_operator.handlers.world import World
from drystone_operator.manager import views
from drystone_operator.manager.client import ManagerClient
from drystone_operator.models.cluster_parts import UpgradeStrategy
from drystone_operator.models.disk import DiskPhase, DiskState
from drystone_operator.plan import (
    cluster,
    deletion,
    disks,
    drain,
    fuse_rollout,
    nodes,
    pools,
    rollout,
)
from drystone_operator.plan.actions import DeletePod, WriteStatus
from drystone_operator.plan.failover import Decision, Step
from drystone_operator.plan.views import Device, EngineView, PodView, Unanswered
from drystone_operator.resources import guards
from drystone_operator.resources.base import Build, Platform
from drystone_operator.status import Condition

Json = dict[str, Any]

UNDER_WAY: Final = ("pending", "formatting", "opening")
"""What a server says of a disk that it has yet to take."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Around:
    """Everything a round needs from outside; tests give their own."""

    kube: Kube
    managers: Managers
    platform: Platform
    executor: Callable[[str], Executor]
    failover: Callable[[str, str], Mapping[str, Decision]]
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Seen:
    """What one round saw."""

    world: World
    build: Build
    secrets: observe.Secrets
    manager: ManagerClient | None
    engine: EngineView | Unanswered

    def objects(self, kind: str) -> tuple[Json, ...]:
        """Our objects of a kind beside this StorageCluster."""
        return self.world.of(kind, self.build.namespace)

    @property
    def pods(self) -> tuple[PodView, ...]:
        """Pods of the cluster."""
        return self.world.pods_of(self.build.namespace, self.build.name)


@dataclass(frozen=True, slots=True)
class Settling:
    """By what objects are settled one by one, each for itself."""

    executor: Executor
    manager: ManagerClient
    engine: EngineView


class Rounds:
    """Does rounds."""

    def __init__(self, around: Around) -> None:
        self._around = around

    async def once(self, world: World, body: Json) -> bool:
        """One whole round over one StorageCluster; whether the next one is due soon.

        It is where something was done, or waits for what tells nobody when it changes.
        """
        executor = self._around.executor(str(body["metadata"]["namespace"]))
        before = executor.done
        waits = await self._once(world, body, executor)
        return waits or executor.done != before

    async def _once(self, world: World, body: Json, executor: Executor) -> bool:
        metadata = body["metadata"]
        name = str(metadata["name"])
        try:
            build = parse.cluster(body, self._around.platform)
            _only_one(world, body)
        except DrystoneError as error:
            reason = "SpecInvalid" if isinstance(error, InvalidArgumentError) else "Duplicate"
            condition = Condition("Ready", False, reason, error.message)
            await executor.one(WriteStatus("StorageCluster", name, (condition,)), None)
            return False
        seen = await self._look(world, build)
        not_deleted = None
        if metadata.get("deletionTimestamp") is not None:
            not_deleted = await self._deletion(seen, body)
            if not_deleted is None:
                return True
        if isinstance(seen.engine, Unanswered) and seen.engine.is_other:
            wanted = _wanted(seen, body, not_deleted)
            await executor.run(cluster.plan(wanted, _pods_seen(seen)), None)
            return False
        waits = await self._cluster(seen, body, not_deleted)
        waits |= await self._disks(seen)
        waits |= await self._pools(seen)
        return waits or not_deleted is not None or seen.manager is None

    async def _look(self, world: World, build: Build) -> Seen:
        secrets = await observe.read_secrets(self._around.kube, build)
        try:
            manager = await self._around.managers.client(build, secrets)
        # What is to be verified with, is none, or an address leaves nothing to verify.
        except (DataError, InvalidArgumentError) as error:
            return Seen(world, build, secrets, None, Unanswered(error.code, f"{error.message}."))
        engine = await self._engine(world, build, manager)
        return Seen(world, build, secrets, manager, engine)

    @staticmethod
    async def _engine(
        world: World, build: Build, manager: ManagerClient | None
    ) -> EngineView | Unanswered:
        if manager is None:
            return cluster.NOT_ASKED
        return await views.look(manager, world.known_uuid(build.namespace, build.name))

    async def _deletion(self, seen: Seen, body: Json) -> Condition | None:
        """Let it go; or say why not, and everything goes on as before."""
        ran = bool((body.get("status") or {}).get("clusterUUID"))
        names_of = None
        if seen.manager is not None:
            names_of = await views.volume_names(seen.manager)
            # Asked once more, after that: names of volumes count only of this cluster.
            engine = await self._engine(seen.world, seen.build, seen.manager)
            seen = replace(seen, engine=engine)
        wanted = deletion.DeletionSeen(
            volumes=names_of,
            engine=seen.engine,
            nodes=seen.world.nodes,
            ever_ran=ran or isinstance(seen.engine, EngineView),
            held=names.FINALIZER in (body["metadata"].get("finalizers") or ()),
            pools_held=tuple(p.name for p in parse.pools(seen.objects("StoragePool")) if p.held),
            nodes_held=tuple(n.name for n in self._storage_nodes(seen) if n.held),
            namespace_goes=await observe.namespace_goes(self._around.kube, seen.build.namespace),
        )
        refusal = deletion.refusal(seen.build, wanted)
        if refusal is None:
            pods = await observe.read_pods(self._around.kube, seen.build)
            guarding = tuple(p for p in pods if p.component == guards.COMPONENT)
            plan = deletion.plan(seen.build, replace(wanted, guards=guarding))
            await self._around.executor(seen.build.namespace).run(plan, seen.manager)
        return refusal

    async def _cluster(self, seen: Seen, body: Json, not_deleted: Condition | None) -> bool:
        """Nodes first: their fault sets are in the servers' settings. Whether a rollout waits."""
        build, executor = seen.build, self._around.executor(seen.build.namespace)
        failover = self._around.failover(build.namespace, build.name)
        objects = self._storage_nodes(seen)
        asked = node_work.NodesAsked(build, objects, seen.world.nodes, seen.engine)
        work = await node_work.settle(asked, executor, seen.manager, self._around.now())
        drains = _drains(seen, frozenset(o.node for o in objects))
        nodes_seen = nodes.NodesSeen(
            nodes=seen.world.nodes,
            objects=objects,
            engine=seen.engine,
            failover=failover,
            draining=drains.conditions,
            pods=seen.pods,
            said=work.conditions,
            stopped=work.stopped,
        )
        fault_sets = nodes.fault_sets(build, nodes_seen)
        step = rollout.plan(_rollout_seen(seen, fault_sets, failover, drains.leaving))
        cluster_seen = await self._cluster_seen(seen, fault_sets, step)
        await executor.run(nodes.plan(build, nodes_seen), seen.manager)
        wanted = _wanted(seen, body, not_deleted)
        await executor.run(cluster.plan(wanted, cluster_seen), seen.manager)
        for action in drains.kept:
            await executor.one(action, seen.manager)
        if drains.taken or step.actions:
            await self._take_away(seen, frozenset(o.node for o in objects), fault_sets)
        outdated, free = await _fuse_step(seen)
        for pod in free:
            await executor.one(pod, seen.manager)
        # What a person is to delete is told by the watch, whenever that may be.
        waits = build.spec.upgrade.strategy is not UpgradeStrategy.ON_DELETE
        return work.removing or (waits and (outdated or bool(step.outdated)))

    def _storage_nodes(self, seen: Seen) -> tuple[nodes.StorageNodeView, ...]:
        return parse.nodes(seen.objects("StorageNode"), self._around.now())

    async def _take_away(
        self, seen: Seen, storage_nodes: frozenset[str], fault_sets: Mapping[str, str]
    ) -> None:
        """Delete pods of guards, servers and beacons, as it is right now.

        What the round began with may be minutes old: everything that was done since took its time,
        and watches may be behind. So all of it is asked for once more, and planned once more.
        """
        build, executor = seen.build, self._around.executor(seen.build.namespace)
        now = await self._again(seen)
        drains = _drains(now, storage_nodes)
        failover = self._around.failover(build.namespace, build.name)
        step = rollout.plan(_rollout_seen(now, fault_sets, failover, drains.leaving))
        for action in (*drains.taken, *step.actions):
            await executor.one(action, seen.manager)

    async def _again(self, seen: Seen) -> Seen:
        kube, build = self._around.kube, seen.build
        pods = await observe.read_pods(kube, build)
        world = replace(seen.world, nodes=await observe.read_nodes(kube), pods=pods)
        return replace(seen, world=world, engine=await self._engine(world, build, seen.manager))

    async def _cluster_seen(
        self, seen: Seen, fault_sets: Mapping[str, str], step: rollout.Rollout
    ) -> cluster.ClusterSeen:
        build = seen.build
        local = await observe.read_local_volumes(self._around.kube, build)
        found = [(o.get("status") or {}).get("state") for o in seen.objects("StorageDisk")]
        return replace(
            _pods_seen(seen),
            secrets=seen.secrets.keys,
            nodes=seen.world.nodes,
            storage_nodes=fault_sets,
            local_volumes=local.nodes,
            released_volumes=local.released,
            rollout=step.message if step.outdated else "",
            available_disks=found.count("Available"),
            tls=await observe.read_tls(self._around.kube, build, self._around.now()),
        )

    async def _disks(self, seen: Seen) -> bool:
        """Every disk for itself: one that is refused keeps no other one waiting.

        Whether a server has yet to say what it has, or is at taking a disk.
        """
        engine, manager = seen.engine, seen.manager
        if isinstance(engine, Unanswered) or manager is None or seen.build.spec.is_external:
            return False
        servers = [n.name for n in engine.nodes if n.role == "server" and n.connected]
        answers = await asyncio.gather(*(views.devices(manager, n) for n in servers))
        devices = {n: d for n, d in zip(servers, answers, strict=True) if d is not None}
        known = self._storage_disks(seen)
        executor = self._around.executor(seen.build.namespace)
        for create in disks.discovered(seen.build, devices, known):
            await executor.one(create, manager)
        first: dict[tuple[str, str], str] = {}
        taking = False
        for disk in known:
            found = devices.get(disk.node)
            device = disks.find(disk, found)
            if device is None and disk.state is DiskState.REMOVE:
                # Pulled out, or its node is away: what is wanted there is taken back all the same.
                device = await views.wanted_device(manager, disk.node, disk.device)
                found = (device,) if device is not None else found
            place = (disk.node, device.id if device else disk.device)
            other = first.setdefault(place, disk.name)
            plan = disks.plan(disk, found, engine, duplicate_of="" if other == disk.name else other)
            taking |= plan.status.fields.get("state") == DiskPhase.INITIALISING.value
            taking |= plan.status.fields.get("state") == DiskPhase.EVACUATING.value
            taking |= not await self._disk(Settling(executor, manager, engine), disk, device, plan)
        taking |= any(d.wanted in UNDER_WAY for found in devices.values() for d in found)
        return len(devices) < len(servers) or taking

    def _storage_disks(self, seen: Seen) -> tuple[disks.StorageDiskView, ...]:
        """As they are wanted: those of a node that is removed are to be emptied and given up."""
        objects = self._storage_nodes(seen)
        asked = node_work.NodesAsked(seen.build, objects, seen.world.nodes, seen.engine)
        gone = node_work.leaving(asked)
        return tuple(
            replace(d, state=DiskState.REMOVE) if d.node in gone else d
            for d in parse.disks(seen.objects("StorageDisk"))
        )

    async def _disk(
        self,
        by: Settling,
        disk: disks.StorageDiskView,
        device: Device | None,
        plan: disks.DiskPlan,
    ) -> bool:
        """Do and say it; whether nothing stood in the way that may be gone in a moment."""
        status = plan.status
        try:
            for action in plan.actions:
                await by.executor.one(action, by.manager)
        except ConflictError as error:
            status = disks.refused(disk, device, str(error), by.engine)
        except DrystoneError as error:
            _log.warning("disk_not_settled", disk=disk.name, error=str(error))
            return False
        await by.executor.one(status, by.manager)
        return True

    async def _pools(self, seen: Seen) -> bool:
        """Every pool for itself; whether one could not be settled."""
        engine, manager, build = seen.engine, seen.manager, seen.build
        if isinstance(engine, Unanswered) or manager is None or build.spec.is_external:
            return False
        executor = self._around.executor(build.namespace)
        known = parse.pools(seen.objects("StoragePool"))
        for create in pools.default_pool(build, known):
            await executor.one(create, manager)
        objects = self._storage_nodes(seen)
        around = nodes.NodesSeen(seen.world.nodes, objects, engine)
        fault_sets = nodes.fault_sets(build, around)
        unsettled = False
        for pool in known:
            plan = pools.plan(pool, engine, fault_sets)
            status = plan.status
            try:
                for action in plan.actions:
                    await executor.one(action, manager)
            except ConflictError as error:
                status = pools.refused(pool, str(error))
            except DrystoneError as error:
                _log.warning("pool_not_settled", pool=pool.name, error=str(error))
                unsettled = True
                continue
            if status is not None:
                await executor.one(status, manager)
        return unsettled


def _only_one(world: World, body: Json) -> None:
    """The oldest StorageCluster of a namespace counts; names and ports are made for one."""
    metadata = body["metadata"]

    def age(other: Json) -> tuple[str, str]:
        return str(other["metadata"].get("creationTimestamp", "")), other["metadata"]["name"]

    oldest = min(world.of("StorageCluster", metadata["namespace"]), key=age, default=body)
    if oldest["metadata"]["name"] != metadata["name"]:
        raise ConflictError(
            f"This namespace has StorageCluster {oldest['metadata']['name']} already; "
            "make another one in a namespace of its own."
        )


def _drains(seen: Seen, storage_nodes: frozenset[str]) -> drain.Drain:
    if seen.build.spec.is_external:
        return drain.Drain()
    wanted = drain.DrainSeen(seen.world.nodes, storage_nodes, seen.pods, seen.engine)
    return drain.plan(seen.build, wanted)


def _wanted(seen: Seen, body: Json, not_deleted: Condition | None) -> cluster.ClusterWanted:
    return cluster.ClusterWanted(
        build=seen.build,
        not_deleted=not_deleted,
        finalizers=tuple(body["metadata"].get("finalizers") or ()),
        known_uuid=str((body.get("status") or {}).get("clusterUUID") or ""),
    )


def _pods_seen(seen: Seen) -> cluster.ClusterSeen:
    """What its status needs in any case."""
    build = seen.build
    workloads = seen.world.workloads_of(build.namespace, build.name)
    return cluster.ClusterSeen(workloads=workloads, pods=seen.pods, engine=seen.engine)


async def _fuse_step(seen: Seen) -> tuple[bool, tuple[DeletePod, ...]]:
    """Whether pods of an older version wait until nobody uses them, and those that may go."""
    build = seen.build
    workloads = seen.world.workloads_of(build.namespace, build.name)
    template = next((w.template for w in workloads if w.component == fuse_rollout.COMPONENT), "")
    if seen.manager is None or not fuse_rollout.outdated(seen.pods, template):
        return False, ()
    busy = await views.clients_with_volumes(seen.manager)
    strategy = build.spec.upgrade.strategy
    return True, fuse_rollout.plan(fuse_rollout.FuseSeen(seen.pods, template, busy, strategy))


def _rollout_seen(
    seen: Seen,
    fault_sets: Mapping[str, str],
    failover: Mapping[str, Decision],
    leaving: frozenset[str],
) -> rollout.RolloutSeen:
    build = seen.build
    workloads = seen.world.workloads_of(build.namespace, build.name)
    away = {n.name for n in seen.world.nodes if n.ready is not True and n.name in fault_sets}
    away |= {node for node, decision in failover.items() if decision.step is not Step.WELL}
    return rollout.RolloutSeen(
        pods=seen.pods,
        templates={w.component: w.template for w in workloads if w.template},
        fault_sets=fault_sets,
        engine=seen.engine,
        strategy=build.spec.upgrade.strategy,
        nodes_away=frozenset(away) | leaving,
    )
