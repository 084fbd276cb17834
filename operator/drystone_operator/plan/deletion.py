"""Deletion of a StorageCluster: refused while it has volumes; what then becomes of the disks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drystone_operator import names
from drystone_operator.models.cluster_parts import DeletionPolicy
from drystone_operator.plan.actions import Action, LabelNode, LetGo, Plan, SetFinalizer
from drystone_operator.plan.views import EngineView, NodeView, PodView, Unanswered
from drystone_operator.resources.base import Build
from drystone_operator.status import Condition

SHOWN_MAX: Final = 5  # names of volumes in the condition; a person then asks for the list


@dataclass(frozen=True, slots=True)
class DeletionSeen:
    """What decides: the volumes there are (None = could not be asked), and our node labels.

    ``ever_ran``: some object of the cluster or its id is known, so there may be volumes.
    ``namespace_goes``: everything here is deleted, whatever we say.
    """

    volumes: tuple[str, ...] | None
    engine: EngineView | Unanswered
    nodes: tuple[NodeView, ...]
    ever_ran: bool
    held: bool
    pools_held: tuple[str, ...] = ()
    """StoragePools with our finalizer: nobody is left to take it away once the cluster is gone."""
    nodes_held: tuple[str, ...] = ()
    """StorageNodes with our finalizer, for the same reason."""
    namespace_goes: bool = False
    guards: tuple[PodView, ...] = ()
    """Guard pods: they have our finalizer too."""


def plan(build: Build, seen: DeletionSeen) -> Plan:
    """Take our labels away and let the objects go: only after ``refusal`` had nothing to say.

    Pools too: without a StorageCluster nobody would look after them, and a deletion would hang.
    """
    actions: list[Action] = [
        LabelNode(node.name, label, None)
        for node in sorted(seen.nodes, key=lambda n: n.name)
        for label in (names.LABEL_NODE_SERVER, names.LABEL_NODE_BLOCK)
        if node.labels.get(label) == build.instance
    ]
    actions += [LetGo(p.namespace, p.name, p.uid) for p in seen.guards if p.held or not p.deleting]
    # The pools and their data stay; a namespace that is deleted must not wait for their objects.
    actions += [SetFinalizer("StoragePool", p, present=False) for p in sorted(seen.pools_held)]
    actions += [SetFinalizer("StorageNode", n, present=False) for n in sorted(seen.nodes_held)]
    if seen.held:
        actions.append(SetFinalizer("StorageCluster", build.name, present=False))
    return Plan(tuple(actions))


def refusal(build: Build, seen: DeletionSeen) -> Condition | None:
    """Why it is not deleted, as its Ready condition; None = it may go."""
    # A namespace takes pods, Secrets and settings along: to hold this one back protects nothing.
    if build.spec.is_external or not seen.ever_ran or seen.namespace_goes:
        return None
    if isinstance(seen.engine, Unanswered) and seen.engine.is_other:
        # An empty cluster in the place of ours has no volumes, and says nothing of ours.
        return Condition("Ready", False, "OtherCluster", f"Not deleted. {seen.engine.message}")
    if seen.volumes is None:
        message = seen.engine.message if isinstance(seen.engine, Unanswered) else "No answer."
        return Condition(
            "Ready",
            False,
            "DeletionRefused",
            "It is not deleted while no manager can say whether it has volumes. " + message,
        )
    if seen.volumes:
        shown = ", ".join(seen.volumes[:SHOWN_MAX])
        more = " and others" if len(seen.volumes) > SHOWN_MAX else ""
        return Condition(
            "Ready",
            False,
            "DeletionRefused",
            f"It still has volumes: {shown}{more}. Delete them first; until then everything "
            "runs on.",
        )
    if build.spec.deletion_policy is DeletionPolicy.WIPE and _drives(seen):
        return Condition(
            "Ready",
            False,
            "Wiping",
            "deletionPolicy is Wipe: delete its StoragePools and set state: Remove on its "
            "StorageDisks, then it goes. Nothing is erased.",
        )
    return None


def _drives(seen: DeletionSeen) -> bool:
    """Whether a disk is still in use; one that was given up is down and nothing counts on it."""
    drives = seen.engine.drives if isinstance(seen.engine, EngineView) else ()
    return any(drive.state == "up" or drive.needed for drive in drives if drive.state != "gone")
