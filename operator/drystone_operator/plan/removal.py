"""Removal of a node: a deleted StorageNode with removalPolicy Evacuate goes once it holds nothing.

Its disks are treated as if each said Remove: evacuated, then given up. Then its server is stopped,
its name is forgotten, and only then is the object let go. Each step is seen before the next one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drystone_operator import names
from drystone_operator.plan.actions import Action, ForgetNode, LabelNode, SetFinalizer
from drystone_operator.plan.nodes import StorageNodeView, selected
from drystone_operator.plan.views import EngineView, NodeView, Unanswered
from drystone_operator.resources.base import Build
from drystone_operator.status import Condition

SELECTED: Final = (
    "spec.nodes.selector of the StorageCluster selects this node, so it would be made anew. Take "
    "the label away that it selects (a selector that is empty takes every node: set one); nothing "
    "is moved until then."
)


@dataclass(frozen=True, slots=True)
class Removal:
    """What to do for one object now, and what to say; None = nothing is said of a removal."""

    actions: tuple[Action, ...] = ()
    condition: Condition | None = None
    disks_leave: bool = False
    """Whether its disks are to be emptied and given up."""
    stopped: bool = False
    """Whether its server is not wanted there any more."""


def plan(
    build: Build,
    one: StorageNodeView,
    nodes: tuple[NodeView, ...],
    engine: EngineView | Unanswered,
) -> Removal:
    """The next step for one object."""
    if not one.deleting or not one.evacuate:
        mark = SetFinalizer("StorageNode", one.name, present=one.evacuate)
        return Removal((mark,) if one.held != one.evacuate else ())
    if not one.held:
        return Removal()
    node = next((n for n in nodes if n.name == one.node), None)
    if node is not None and selected(build, node):
        return Removal(condition=_says("StillSelected", SELECTED))
    if isinstance(engine, Unanswered):
        return Removal(condition=_says("ManagerUnreachable", engine.message))
    return _empty(one, engine) or _stop(build, one, node, engine)


def _empty(one: StorageNodeView, engine: EngineView) -> Removal | None:
    """What is still to be copied or given up; None = nothing."""
    drives = [d for d in engine.drives_of(one.node) if d.state != "gone"]
    left = sum(d.groups for d in drives)
    if left:
        text = f"Its disks are emptied: {left} copies of placement groups are left."
        return Removal((), _says("Evacuating", text), disks_leave=True)
    if any(d.state == "up" for d in drives):
        text = "Its disks hold nothing any more and are given up."
        return Removal((), _says("GivingUpDisks", text), disks_leave=True)
    return None


def _stop(
    build: Build,
    one: StorageNodeView,
    node: NodeView | None,
    engine: EngineView,
) -> Removal:
    """Stop its server, have it forgotten, let the object go."""
    if node is not None and node.labels.get(names.LABEL_NODE_SERVER) == build.instance:
        label = LabelNode(node.name, names.LABEL_NODE_SERVER, None)
        return Removal((label,), _says("Stopping", "Its server is stopped."), stopped=True,
                       disks_leave=True)  # fmt: skip
    server = engine.node("server", one.node)
    if server is None:
        release = SetFinalizer("StorageNode", one.name, present=False)
        return Removal((release,), stopped=True, disks_leave=True)
    if server.connected or server.beacon_connected:
        condition = _says("Stopping", "Its server and its beacon are being stopped.")
        return Removal((), condition, stopped=True, disks_leave=True)
    condition = _says("Forgetting", "The managers are told to forget it.")
    return Removal((ForgetNode(one.node),), condition, stopped=True, disks_leave=True)


def _says(reason: str, text: str) -> Condition:
    return Condition("Removing", True, reason, text)


def refused(reason: str) -> Condition:
    """What to say where a manager would not do it."""
    return _says("Refused", f"{reason}.")
