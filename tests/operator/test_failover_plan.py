"""Fail-over: every combination of signs, and that nothing is moved before its proof."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from drystone_operator.plan.actions import DeletePod, Fence, SetTaint
from drystone_operator.plan.failover import Decision, NodeSigns, Proof, Step, decide
from drystone_operator.plan.views import PodView

SILENCE_S = 10.0
AWAY = "2026-11-21T10:00:00Z"
POD = PodView("db-0", "shop", "uid-1", "a")

LOST = NodeSigns(
    node="a",
    client="block-a",
    ready=False,
    away_since=AWAY,
    silent_s=60.0,
    engine_answers=True,
    client_known=True,
    client_connected=False,
    server_expected=True,
    server_connected=False,
    tainted=False,
    proof=None,
    pods=(POD,),
)
PROOFS = (
    None,
    Proof("block-a", AWAY),
    Proof("block-a", "2026-11-20T10:00:00Z"),
    Proof("block-b", AWAY),
)


def all_signs() -> list[NodeSigns]:
    """Every combination; times from each side of their limit."""
    flags = list(itertools.product((False, True), repeat=9))
    return [
        replace(
            LOST,
            ready=f[0], engine_answers=f[1], client_known=f[2], client_connected=f[3],
            server_expected=f[4], server_connected=f[5], tainted=f[6], maintenance=f[7],
            enabled=f[8], silent_s=silent, proof=proof, pods=pods,
        )
        for f in flags
        for silent in (None, 0.0, 9.9, 10.0, 600.0)
        for proof in PROOFS
        for pods in ((), (POD,), (replace(POD, deleting=True),))
    ]  # fmt: skip


ALL = [(signs, decide(signs, SILENCE_S)) for signs in all_signs()]


def taken(decision: Decision, kind: type) -> bool:
    return any(isinstance(action, kind) for action in decision.actions)


def taints(decision: Decision) -> bool:
    return any(isinstance(a, SetTaint) and a.present for a in decision.actions)


def untaints(decision: Decision) -> bool:
    return any(isinstance(a, SetTaint) and not a.present for a in decision.actions)


def test_no_taint_and_no_pod_deletion_without_the_proof_of_this_very_absence():
    for signs, decision in ALL:
        if taints(decision) or taken(decision, DeletePod):
            assert signs.proof == Proof(signs.client, signs.away_since), signs
            assert not signs.ready, signs


def test_nothing_is_done_to_a_node_that_is_well():
    for signs, decision in ALL:
        if signs.ready and not signs.tainted:
            assert decision.actions == (), signs


def test_a_node_is_fenced_only_after_silence_that_a_manager_confirmed():
    for signs, decision in ALL:
        if taken(decision, Fence):
            assert signs.engine_answers, signs
            assert signs.silent_s is not None, signs
            assert signs.silent_s >= SILENCE_S, signs
            assert not signs.ready, signs
            assert signs.enabled, signs
            assert not signs.maintenance, signs


def test_the_taint_is_removed_only_from_a_node_that_is_back_and_clean():
    for signs, decision in ALL:
        if untaints(decision):
            assert signs.ready, signs
            assert signs.tainted, signs
            assert signs.engine_answers, signs
            assert signs.client_connected or not signs.client_known, signs
            assert signs.server_connected or not signs.server_expected, signs
            assert not any(pod.deleting for pod in signs.pods), signs


def test_the_taint_stands_before_the_first_pod_is_deleted():
    for signs, decision in ALL:
        kinds = [type(a) for a in decision.actions]
        if DeletePod in kinds:
            assert signs.tainted or kinds[0] is SetTaint, signs


def test_every_decision_is_a_sentence():
    assert all(decision.message and "  " not in decision.message for _, decision in ALL)


@pytest.mark.parametrize(
    ("changes", "step", "actions"),
    [
        ({"silent_s": 0.0}, Step.SUSPECTED, ""),
        ({"silent_s": None}, Step.SUSPECTED, ""),
        ({"engine_answers": False, "silent_s": None}, Step.SUSPECTED, ""),
        ({}, Step.FENCING, "fence block-a"),
        ({"enabled": False}, Step.HELD, ""),
        ({"maintenance": True}, Step.HELD, ""),
        ({"client_known": False}, Step.HELD, ""),
        ({"client_known": False, "pods": ()}, Step.AWAY, ""),
        (
            {"proof": PROOFS[1]},
            Step.MOVING,
            "taint Node/a\ndelete Pod/shop/db-0 grace=0",
        ),
        ({"proof": PROOFS[1], "tainted": True}, Step.MOVING, "delete Pod/shop/db-0 grace=0"),
        ({"proof": PROOFS[1], "tainted": True, "pods": ()}, Step.AWAY, ""),
        ({"proof": PROOFS[2]}, Step.FENCING, "fence block-a"),
        ({"ready": True, "tainted": True}, Step.RETURNING, ""),
        (
            {
                "ready": True, "tainted": True, "client_connected": True,
                "server_connected": True, "pods": (),
            },
            Step.RETURNING,
            "untaint Node/a",
        ),
        ({"ready": True}, Step.WELL, ""),
    ],
)  # fmt: skip
def test_the_steps_in_their_order(changes, step, actions):
    decision = decide(replace(LOST, **changes), SILENCE_S)
    assert decision.step is step
    assert "\n".join(str(a) for a in decision.actions) == actions


def test_an_operator_that_forgot_its_proof_fences_again_before_it_goes_on():
    decision = decide(replace(LOST, tainted=True, proof=None), SILENCE_S)
    assert [str(a) for a in decision.actions] == ["fence block-a"]
