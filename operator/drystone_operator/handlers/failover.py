"""Fail-over: a round of its own, often while a node is not well, seldom while all are.

It keeps a few things in memory, which may be lost at any time: since when a node is silent, which
fence was proven for which absence, and which nodes were looked at after they came back. Lost, the
wait begins anew, the fence, which is idempotent, is ordered and proven again, and every node is
looked at once more. Nothing is ever done on the memory of a *former* absence.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_operator import names
from drystone_operator.apply.executor import Executor
from drystone_operator.apply.interface import Kube
from drystone_operator.handlers import parse
from drystone_operator.handlers.managers import Managers
from drystone_operator.handlers.observe import pods_with_volumes
from drystone_operator.handlers.world import World
from drystone_operator.manager import views
from drystone_operator.manager.client import ManagerClient
from drystone_operator.models.common import Switch
from drystone_operator.plan.actions import DeletePod, Fence
from drystone_operator.plan.failover import Decision, NodeSigns, Proof, Step, decide, stranded
from drystone_operator.plan.views import EngineView, NodeView, PodView, Unanswered
from drystone_operator.resources.base import Build

STEPS_MAX: Final = 3
"""Fence, then taint and pods, then a look: a fail-over needs no more looks than that in a row."""

SAMPLE_S: Final = 3.0
"""Between two looks at who is connected while every node is well: silence counts from then on, and
is over by the time that Kubernetes, which waits longer, calls the node lost."""

AT_ONCE_MAX: Final = 8
"""Nodes looked after at a time: a rack that fails waits for its slowest fence, not for the sum."""

Place = tuple[str, str]
"""Namespace and name of a StorageCluster."""

_log = get_logger(__name__)


@dataclass(slots=True)
class Memory:
    """What is remembered of one StorageCluster's nodes."""

    silent: dict[str, float] = field(default_factory=dict)
    proofs: dict[str, Proof] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)
    moved: dict[str, int] = field(default_factory=dict)
    """How many pods were deleted, by node."""
    looked_at: set[str] = field(default_factory=set)
    """Nodes that are well, and were looked at since they came back or since our start."""
    tries: dict[str, int] = field(default_factory=dict)
    """How often those that are well and were not looked at yet were tried."""
    sampled_at: float | None = None
    shape: object = None
    """The last look at the engine without its figures: another one is a change."""
    known_uuid: str = ""
    """The cluster's id: managers of another one neither prove nor know anything here."""


class Failovers:
    """Looks after nodes that are not well, for every StorageCluster."""

    def __init__(
        self,
        kube: Kube,
        managers: Managers,
        *,
        executor: Callable[[str], Executor],
        driver: str,
        monotonic: Callable[[], float],
        now: Callable[[], datetime],
        changed: Callable[[], None],
    ) -> None:
        self._kube = kube
        self._managers = managers
        self._executor = executor
        self._driver = driver
        self._monotonic = monotonic
        self._now = now
        self._changed = changed
        self._memories: dict[Place, Memory] = {}

    def decisions(self, namespace: str, name: str) -> Mapping[str, Decision]:
        """Where each node of a StorageCluster is; nodes that are well are left out."""
        return dict(self._memory((namespace, name)).decisions)

    async def once(self, world: World, build: Build) -> None:
        """Look after every node that is not well, and see who is silent."""
        memory = self._memory((build.namespace, build.name))
        memory.known_uuid = world.known_uuid(build.namespace, build.name)
        mine = [n for n in world.nodes if _concerns(build, n)]
        unwell = [n for n in mine if not _well(n)]
        self._forget(memory, {n.name for n in unwell})
        manager = self._managers.known(build)
        if unwell or self._due(memory):
            await self._sample(memory, mine, manager)
        turn = asyncio.Semaphore(AT_ONCE_MAX)

        async def look_after(node: NodeView) -> None:
            async with turn:
                await _apart(node.name, self._node(world, build, memory, node, manager))

        await asyncio.gather(*(look_after(node) for node in unwell))
        if manager is not None:
            await self._look_at_next(build, memory, [n for n in mine if _well(n)], manager)

    async def _look_at_next(
        self, build: Build, memory: Memory, well: list[NodeView], manager: ManagerClient
    ) -> None:
        """One node a round that came back; one that was tried in vain is the last to be again."""
        waiting = [n for n in well if n.name not in memory.looked_at]
        if not waiting:
            return
        memory.tries = {n.name: memory.tries.get(n.name, 0) for n in waiting}
        back = min(waiting, key=lambda n: memory.tries[n.name])
        memory.tries[back.name] += 1
        await _apart(back.name, self._come_back(build, memory, back, manager))

    async def _come_back(
        self, build: Build, memory: Memory, node: NodeView, manager: ManagerClient
    ) -> None:
        """Have pods restarted whose volumes were taken away while the node was not ready.

        It may have come back between the fence and the taint, or while no operator ran.
        """
        engine = await views.look_at_nodes(manager, memory.known_uuid)
        if isinstance(engine, Unanswered):
            return
        pods = await pods_with_volumes(self._kube, node.name, self._driver)
        held = await views.attachments(manager) if pods else {}
        client = names.client_name(node.name)
        dead = stranded(node.name, pods, held, cluster=engine.uuid, client=client)
        await self._delete(build, manager, dead)
        memory.looked_at.add(node.name)

    async def _delete(
        self, build: Build, manager: ManagerClient | None, pods: tuple[DeletePod, ...]
    ) -> None:
        """Delete every one; one that is refused keeps no other one waiting."""
        failed: DrystoneError | None = None
        for action in pods:
            try:
                await self._executor(build.namespace).one(action, manager)
            except DrystoneError as error:
                failed = error
        if failed is not None:
            raise failed

    def _due(self, memory: Memory) -> bool:
        at = memory.sampled_at
        return at is None or self._monotonic() - at >= SAMPLE_S

    async def _sample(
        self, memory: Memory, nodes: list[NodeView], manager: ManagerClient | None
    ) -> None:
        """See which nodes no manager has a connection of; a look without an answer is a break."""
        engine = await _ask(manager, memory)
        memory.sampled_at = self._monotonic()
        shape = engine.shape if isinstance(engine, EngineView) else engine.code
        if memory.shape != shape:
            # Nothing else tells of a change within the engine: what hangs on it is looked at now.
            memory.shape = shape
            self._changed()
        for node in nodes:
            silent = isinstance(engine, EngineView) and not _connected(engine, node.name)
            self._silent(memory, node.name, silent=silent)

    async def _node(
        self,
        world: World,
        build: Build,
        memory: Memory,
        node: NodeView,
        manager: ManagerClient | None,
    ) -> None:
        for _ in range(STEPS_MAX):
            signs = await self._signs(world, build, memory, node, manager)
            decision = decide(signs, build.spec.failover.silence_seconds)
            self._note(memory, node.name, decision)
            deletions = tuple(a for a in decision.actions if isinstance(a, DeletePod))
            for action in decision.actions:
                if isinstance(action, DeletePod):
                    continue
                await self._executor(build.namespace).one(action, manager)
                if isinstance(action, Fence):
                    # Only now, after the answer: before, the fence was ordered but not proven.
                    memory.proofs[node.name] = Proof(action.client, signs.away_since)
            await self._delete(build, manager, deletions)
            memory.moved[node.name] = memory.moved.get(node.name, 0) + len(deletions)
            if not any(isinstance(action, Fence) for action in decision.actions):
                return

    async def _signs(
        self,
        world: World,
        build: Build,
        memory: Memory,
        node: NodeView,
        manager: ManagerClient | None,
    ) -> NodeSigns:
        engine = await _ask(manager, memory)
        client = names.client_name(node.name)
        answers = isinstance(engine, EngineView)
        theirs = engine.node("client", client) if isinstance(engine, EngineView) else None
        server = engine.node("server", node.name) if isinstance(engine, EngineView) else None
        connected = isinstance(engine, EngineView) and _connected(engine, node.name)
        silent_s = self._silent(memory, node.name, silent=answers and not connected)
        return NodeSigns(
            node=node.name,
            client=client,
            ready=node.ready is True,
            away_since=node.ready_since,
            silent_s=silent_s,
            engine_answers=answers,
            client_known=theirs is not None,
            client_connected=theirs is not None and theirs.connected,
            server_expected=server is not None,
            server_connected=server is not None and server.connected,
            tainted=_tainted(node),
            proof=memory.proofs.get(node.name),
            pods=await self._pods(node, silent_s, build),
            maintenance=self._in_maintenance(world, build, node.name),
            enabled=build.spec.failover.out_of_service_taint is Switch.ENABLED,
            kept_out=any(
                t.key == names.TAINT_KEY and t.value != names.TAINT_VALUE for t in node.taints
            ),
        )

    async def _pods(
        self, node: NodeView, silent_s: float | None, build: Build
    ) -> tuple[PodView, ...]:
        """Pods with volumes; asked for only where the answer decides something."""
        due = silent_s is not None and silent_s >= build.spec.failover.silence_seconds
        if not due and not _tainted(node):
            return ()
        return await pods_with_volumes(self._kube, node.name, self._driver)

    def _silent(self, memory: Memory, node: str, *, silent: bool) -> float | None:
        """For how long, without a break that was seen."""
        if not silent:
            memory.silent.pop(node, None)
            return None
        now = self._monotonic()
        return now - memory.silent.setdefault(node, now)

    def _in_maintenance(self, world: World, build: Build, node: str) -> bool:
        found = parse.nodes(world.of("StorageNode", build.namespace), self._now())
        return any(one.node == node and one.maintenance for one in found)

    def _note(self, memory: Memory, node: str, decision: Decision) -> None:
        before = memory.decisions.get(node)
        memory.decisions[node] = replace(decision, pods_deleted=memory.moved.get(node, 0))
        if before is None or before.step is not decision.step:
            _log.info("failover_step", node=node, step=decision.step.value, why=decision.message)
            self._changed()

    def _forget(self, memory: Memory, unwell: set[str]) -> None:
        """A node that is well again has no history: the next absence starts with nothing."""
        for node in set(memory.decisions) - unwell:
            memory.decisions.pop(node)
            _log.info("failover_step", node=node, step=Step.WELL.value, why="the node is well")
            self._changed()
        for node in set(memory.proofs) - unwell:
            memory.proofs.pop(node)
        memory.moved = {n: count for n, count in memory.moved.items() if n in unwell}
        memory.looked_at -= unwell

    def _memory(self, place: Place) -> Memory:
        return self._memories.setdefault(place, Memory())


async def _apart(node: str, work: Awaitable[None]) -> None:
    """Have one node's failure, of whatever kind, stop the look at no other node."""
    try:
        await work
    except DrystoneError as error:
        _log.warning("failover_waits", node=node, error=str(error))
    except Exception:  # noqa: BLE001 - a defect of ours: told with its trace, the next round tries
        _log.exception("failover_node_failed", node=node)


def _concerns(build: Build, node: NodeView) -> bool:
    """Whether processes of this cluster run there."""
    return build.instance in (
        node.labels.get(names.LABEL_NODE_SERVER),
        node.labels.get(names.LABEL_NODE_BLOCK),
    )


def _connected(engine: EngineView, node: str) -> bool:
    """Whether a process of ours on a node has a connection to a manager."""
    client = engine.node("client", names.client_name(node))
    server = engine.node("server", node)
    return bool((client and client.connected) or (server and server.connected))


def _well(node: NodeView) -> bool:
    return node.ready is True and not _tainted(node)


def _tainted(node: NodeView) -> bool:
    return any(t.key == names.TAINT_KEY and t.value == names.TAINT_VALUE for t in node.taints)


async def _ask(manager: ManagerClient | None, memory: Memory) -> EngineView | Unanswered:
    if manager is not None:
        return await views.look_at_nodes(manager, memory.known_uuid)
    return Unanswered("not_asked", "There is no token for the managers yet.")
