"""Fail-over: a round of its own, often while a node is not well, never while all are.

It keeps two things in memory, both of which may be lost at any time: since when a node is silent,
and which fence was proven for which absence. Lost, the wait begins anew and the fence, which is
idempotent, is ordered and proven again. Nothing is ever done on the memory of a *former* absence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
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
from drystone_operator.plan.actions import Fence
from drystone_operator.plan.failover import Decision, NodeSigns, Proof, Step, decide
from drystone_operator.plan.views import EngineView, NodeView, PodView, Unanswered
from drystone_operator.resources.base import Build

STEPS_MAX: Final = 3
"""Fence, then taint and pods, then a look: a fail-over needs no more looks than that in a row."""

Place = tuple[str, str]
"""Namespace and name of a StorageCluster."""

_log = get_logger(__name__)


@dataclass(slots=True)
class Memory:
    """What is remembered of one StorageCluster's nodes."""

    silent: dict[str, tuple[str, float]] = field(default_factory=dict)
    proofs: dict[str, Proof] = field(default_factory=dict)
    decisions: dict[str, Decision] = field(default_factory=dict)


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
        """Look after every node that is not well, one after the other."""
        memory = self._memory((build.namespace, build.name))
        unwell = [n for n in world.nodes if _concerns(build, n) and not _well(n)]
        self._forget(memory, {n.name for n in unwell})
        manager = self._managers.known(build)
        for node in unwell:
            try:
                await self._node(world, build, memory, node, manager)
            except DrystoneError as error:
                _log.warning("failover_waits", node=node.name, error=str(error))

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
            for action in decision.actions:
                await self._executor(build.namespace).one(action, manager)
                if isinstance(action, Fence):
                    # Only now, after the answer: before, the fence was ordered but not proven.
                    memory.proofs[node.name] = Proof(action.client, signs.away_since)
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
        engine = _unanswered() if manager is None else await views.look(manager)
        client = names.client_name(node.name)
        answers = isinstance(engine, EngineView)
        theirs = engine.node("client", client) if isinstance(engine, EngineView) else None
        server = engine.node("server", node.name) if isinstance(engine, EngineView) else None
        connected = bool((theirs and theirs.connected) or (server and server.connected))
        silent_s = self._silent(memory, node, silent=answers and not connected)
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
        )

    async def _pods(
        self, node: NodeView, silent_s: float | None, build: Build
    ) -> tuple[PodView, ...]:
        """Pods with volumes; asked for only where the answer decides something."""
        due = silent_s is not None and silent_s >= build.spec.failover.silence_seconds
        if not due and not _tainted(node):
            return ()
        return await pods_with_volumes(self._kube, node.name, self._driver)

    def _silent(self, memory: Memory, node: NodeView, *, silent: bool) -> float | None:
        """For how long, without a break and in this absence."""
        if node.ready is True or not silent:
            memory.silent.pop(node.name, None)
            return None
        now = self._monotonic()
        since = memory.silent.get(node.name)
        if since is None or since[0] != node.ready_since:
            since = memory.silent[node.name] = (node.ready_since, now)
        return now - since[1]

    def _in_maintenance(self, world: World, build: Build, node: str) -> bool:
        found = parse.nodes(world.of("StorageNode", build.namespace), self._now())
        return any(one.node == node and one.maintenance for one in found)

    def _note(self, memory: Memory, node: str, decision: Decision) -> None:
        before = memory.decisions.get(node)
        memory.decisions[node] = decision
        if before is None or before.step is not decision.step:
            _log.info("failover_step", node=node, step=decision.step.value, why=decision.message)
            self._changed()

    def _forget(self, memory: Memory, unwell: set[str]) -> None:
        """A node that is well again has no history: the next absence starts with nothing."""
        for node in set(memory.decisions) - unwell:
            memory.decisions.pop(node)
            _log.info("failover_step", node=node, step=Step.WELL.value, why="the node is well")
            self._changed()
        for node in set(memory.silent) | set(memory.proofs):
            if node not in unwell:
                memory.silent.pop(node, None)
                memory.proofs.pop(node, None)

    def _memory(self, place: Place) -> Memory:
        return self._memories.setdefault(place, Memory())


def _concerns(build: Build, node: NodeView) -> bool:
    """Whether processes of this cluster run there."""
    return build.instance in (
        node.labels.get(names.LABEL_NODE_SERVER),
        node.labels.get(names.LABEL_NODE_BLOCK),
    )


def _well(node: NodeView) -> bool:
    return node.ready is True and not _tainted(node)


def _tainted(node: NodeView) -> bool:
    return any(t.key == names.TAINT_KEY and t.value == names.TAINT_VALUE for t in node.taints)


def _unanswered() -> Unanswered:
    return Unanswered("not_asked", "There is no token for the managers yet.")
