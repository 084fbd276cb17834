"""Fail-over of a node's pods: the order of steps, and that none is taken before its proof.

A node that Kubernetes and our own managers both lost is fenced; once that is *proven* it gets the
out-of-service taint, and its pods with our volumes are deleted so that they start elsewhere. When
it is back and clean the taint goes. A proof belongs to one absence: it counts only for the
moment since which the node is away, and never for a later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from drystone_operator.plan.actions import Action, DeletePod, Fence, SetTaint
from drystone_operator.plan.views import PodView


class Step(StrEnum):
    """Where a node is."""

    WELL = "Well"
    SUSPECTED = "Suspected"
    FENCING = "Fencing"
    MOVING = "MovingPods"
    AWAY = "Away"
    RETURNING = "Returning"
    HELD = "Held"


@dataclass(frozen=True, slots=True)
class Proof:
    """A fence of a client was proven, while the node was away since that time."""

    client: str
    away_since: str


@dataclass(frozen=True, slots=True)
class NodeSigns:
    """Everything that the decision looks at.

    ``silent_s``: for how long, without a break, managers said that no process of ours on it was
    connected; None = one is, or no manager answered. ``tainted``: by us; ``kept_out``: by a person.
    """

    node: str
    client: str
    ready: bool
    away_since: str
    silent_s: float | None
    engine_answers: bool
    client_known: bool
    client_connected: bool
    server_expected: bool
    server_connected: bool
    tainted: bool
    proof: Proof | None
    pods: tuple[PodView, ...] = ()
    maintenance: bool = False
    enabled: bool = True
    kept_out: bool = False

    @property
    def proven(self) -> bool:
        """Whether the fence is proven for this very absence."""
        proof = self.proof
        return (
            proof is not None
            and not self.ready
            and proof.client == self.client
            and proof.away_since == self.away_since
        )


@dataclass(frozen=True, slots=True)
class Decision:
    """Where the node is, what to do now, and a sentence about it."""

    step: Step
    actions: tuple[Action, ...]
    message: str
    since: str = ""
    fenced: bool = False
    tainted: bool = False
    pods_deleted: int = 0


def decide(signs: NodeSigns, silence_s: float) -> Decision:
    """Take the next step for one node."""
    found = _decide(signs, silence_s)
    since = signs.away_since
    return replace(found, since=since, fenced=signs.proven, tainted=signs.tainted)


def stranded(
    node: str,
    pods: tuple[PodView, ...],
    held: Mapping[str, frozenset[str]],
    *,
    cluster: str,
    client: str,
) -> tuple[DeletePod, ...]:
    """Pods on a node that is back whose volumes were taken away from it meanwhile.

    Their devices answer errors for ever, and nothing in Kubernetes sees it. ``held``: who has each
    volume, read after the pods: a pod whose containers run has its volumes mounted, so its node
    holds them, or lost them by a fence.
    """
    found: list[DeletePod] = []
    for pod in pods:
        ids = [h.partition("/")[2] for h in pod.volumes if h.startswith(f"{cluster}/")]
        lost = any(i in held and client not in held[i] for i in ids)
        if pod.node == node and pod.running and not pod.deleting and lost:
            found.append(DeletePod(pod.namespace, pod.name, pod.uid))
    return tuple(found)


def _decide(signs: NodeSigns, silence_s: float) -> Decision:
    if signs.ready:
        return _returning(signs) if signs.tainted else Decision(Step.WELL, (), "the node is well")
    if signs.proven:
        return _moving(signs)
    return _before_proof(signs, silence_s)


def _before_proof(signs: NodeSigns, silence_s: float) -> Decision:
    if not signs.enabled:
        return Decision(
            Step.HELD, (), "the node is away; fail-over is switched off in the StorageCluster"
        )
    if signs.maintenance:
        return Decision(Step.HELD, (), "the node is away for maintenance; its pods stay")
    if not signs.engine_answers:
        return Decision(
            Step.SUSPECTED, (), "the node is not ready, and no manager answers who could fence it"
        )
    if signs.silent_s is None:
        return Decision(
            Step.SUSPECTED,
            (),
            "Kubernetes lost the node, but its Drystone processes are connected: it is not fenced",
        )
    return _silent(signs, signs.silent_s, silence_s)


def _silent(signs: NodeSigns, silent_s: float, silence_s: float) -> Decision:
    if silent_s < silence_s:
        return Decision(
            Step.SUSPECTED, (), f"the node is silent; it is fenced after {silence_s:g} s of that"
        )
    if not signs.client_known:
        return _no_client(signs)
    return Decision(
        Step.FENCING,
        (Fence(signs.client),),
        "the node is lost: its volumes are taken away from it, proven on every drive",
    )


def _no_client(signs: NodeSigns) -> Decision:
    if signs.pods:
        return Decision(
            Step.HELD,
            (),
            f"pods here use volumes, but the managers know no {signs.client}: "
            "without a fence to prove nothing is moved",
        )
    return Decision(Step.AWAY, (), "the node is away; it never used a volume")


def _moving(signs: NodeSigns) -> Decision:
    actions: list[Action] = []
    if not signs.tainted and not signs.kept_out:
        actions.append(SetTaint(signs.node, present=True, away_since=signs.away_since))
    actions += [DeletePod(p.namespace, p.name, p.uid, grace=0) for p in signs.pods]
    if actions:
        count = len(signs.pods)
        return Decision(
            Step.MOVING,
            tuple(actions),
            f"the node is fenced: {count} {'pod' if count == 1 else 'pods'} with volumes "
            "are deleted here and start elsewhere",
        )
    return Decision(Step.AWAY, (), "the node is fenced and empty; it is waited for")


def _returning(signs: NodeSigns) -> Decision:
    waiting = _not_clean(signs)
    if waiting:
        return Decision(Step.RETURNING, (), f"the node is back; the taint stays until {waiting}")
    return Decision(
        Step.RETURNING,
        (SetTaint(signs.node, present=False),),
        "the node is back and clean: its taint is removed",
    )


def _not_clean(signs: NodeSigns) -> str:
    if not signs.engine_answers:
        return "a manager answers"
    if signs.client_known and not signs.client_connected:
        return "its block daemon is connected"
    if signs.server_expected and not signs.server_connected:
        return "its server is connected"
    if any(pod.deleting for pod in signs.pods):
        return "the pods deleted here are gone"
    return ""
