"""What StorageNodes ask of the managers, each for itself: maintenance, and removal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from drystone_common.errors import ConflictError, DrystoneError
from drystone_common.logs import get_logger
from drystone_operator.apply.executor import Executor
from drystone_operator.manager.client import ManagerClient
from drystone_operator.plan import maintenance, removal
from drystone_operator.plan.nodes import StorageNodeView
from drystone_operator.plan.views import EngineView, NodeView, Unanswered
from drystone_operator.resources.base import Build
from drystone_operator.status import Condition

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NodeWork:
    """What came of it: conditions by the object's name, and where no server is wanted now."""

    conditions: Mapping[str, tuple[Condition, ...]]
    stopped: frozenset[str]
    removing: bool


@dataclass(frozen=True, slots=True)
class NodesAsked:
    """What is looked at."""

    build: Build
    objects: tuple[StorageNodeView, ...]
    nodes: tuple[NodeView, ...]
    engine: EngineView | Unanswered


def leaving(asked: NodesAsked) -> frozenset[str]:
    """Nodes whose disks are to be emptied and given up."""
    found = (removal.plan(asked.build, o, asked.nodes, asked.engine) for o in asked.objects)
    pairs = zip(asked.objects, found, strict=True)
    return frozenset(one.node for one, step in pairs if step.disks_leave)


async def settle(
    asked: NodesAsked, executor: Executor, manager: ManagerClient | None, now: datetime
) -> NodeWork:
    """Do what is due for every object; what is refused for one holds up no other."""
    said: dict[str, tuple[Condition, ...]] = {}
    stopped: set[str] = set()
    removing = False
    for one in asked.objects:
        step = removal.plan(asked.build, one, asked.nodes, asked.engine)
        found = [await _remove(one, step, executor, manager)]
        if step.stopped:
            stopped.add(one.node)
        removing |= one.deleting
        if isinstance(asked.engine, EngineView) and not one.deleting:
            found.append(await _maintain(one, asked.engine, executor, manager, now))
        said[one.name] = tuple(c for c in found if c is not None)
    return NodeWork(said, frozenset(stopped), removing)


async def _remove(
    one: StorageNodeView, step: removal.Removal, executor: Executor, manager: ManagerClient | None
) -> Condition | None:
    try:
        for action in step.actions:
            await executor.one(action, manager)
    except ConflictError as error:
        return removal.refused(str(error))
    except DrystoneError as error:
        _log.warning("node_not_settled", node=one.node, error=str(error))
    return step.condition


async def _maintain(
    one: StorageNodeView,
    engine: EngineView,
    executor: Executor,
    manager: ManagerClient | None,
    now: datetime,
) -> Condition | None:
    action, condition = maintenance.plan(one, engine, now)
    if action is None:
        return condition
    try:
        await executor.one(action, manager)
    except ConflictError as error:
        return maintenance.refused(str(error))
    except DrystoneError as error:
        _log.warning("node_not_settled", node=one.node, error=str(error))
        return None
    return condition
