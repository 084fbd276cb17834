"""StorageNodes: which there are, and what is said of each."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from drystone_operator.plan import cluster, maintenance, nodes, read
from drystone_operator.plan.actions import WriteStatus
from drystone_operator.plan.failover import Decision, Step
from drystone_operator.plan.views import (
    EngineNode,
    PodView,
    Unanswered,
)
from drystone_operator.status import Condition
from tests.operator.wanted import NODES, SQLITE, build, drive, engine, node

LABELS = {"drystone.io/cluster": "c", "app.kubernetes.io/component": "server"}
DEAF = Unanswered("unavailable", "Nobody answers.")


def test_a_node_that_the_selector_takes_gets_an_object():
    picked = build({**SQLITE, "nodes": {"selector": {"disks": "yes"}}})
    seen = nodes.NodesSeen((node("n1"), node("n2", disks="yes")), (), engine())
    assert str(nodes.plan(picked, seen)) == "create StorageNode/n2"


@pytest.mark.parametrize(
    ("connected", "said"), [(True, "Connected"), (False, "Away"), (None, None)]
)
def test_a_node_says_whether_its_beacon_is_connected(connected, said):
    known = (EngineNode("n1", "server", connected=True, beacon_connected=connected),)
    view = nodes.StorageNodeView("n1", "n1")
    seen = nodes.NodesSeen(NODES[:1], (view,), engine("n1", nodes=known))
    (action,) = nodes.plan(build(), seen).actions
    assert isinstance(action, WriteStatus)
    assert action.fields.get("beacon") == said


def ready_of(seen: nodes.NodesSeen) -> str:
    return str(nodes.plan(build(), seen)).splitlines()[1].strip()


@pytest.mark.parametrize(
    ("view", "seen", "said"),
    [
        ({}, {}, "Ready=True Serving: Its server is connected and its disks are up."),
        ({"maintenance": "new memory"}, {}, "Ready=False Maintenance: In maintenance: new memory."),
        ({}, {"engine": DEAF}, "Ready=Unknown ManagerUnreachable: No manager answers."),
        (
            {}, {"engine": engine()},
            "Ready=False Joining: The server of this node has not registered yet.",
        ),
        (
            {}, {"engine": engine("n1", drives=(drive(4, "n1", "down"),))},
            "Ready=False DisksDown: 1 of its disks is not up: drive 4 is down.",
        ),
        (
            {}, {"nodes": ()},
            (
                "Ready=False NodeMissing: Kubernetes has no node n1. If it is gone for good, "
                "`kubectl drystone -n ns node forget n1 --yes` frees its name; "
                "then delete this object."
            ),
        ),
    ],
)  # fmt: skip
def test_what_is_said_of_a_node(view, seen, said):
    one = nodes.StorageNodeView("n1", "n1", **view)
    values = {"nodes": NODES[:1], "objects": (one,), "engine": engine("n1"), **seen}
    assert ready_of(nodes.NodesSeen(**values)) == said


@pytest.mark.parametrize(("used", "said"), [(7, 12), (None, None)])
def test_what_is_used_on_a_node_is_not_said_to_be_nothing_while_that_is_not_known(used, said):
    drives = (replace(drive(1, "n1"), used=5), replace(drive(2, "n1", "down"), used=used))
    seen = nodes.NodesSeen(
        NODES[:1], (nodes.StorageNodeView("n1", "n1"),), engine("n1", drives=drives)
    )
    (action,) = nodes.plan(build(), seen).actions
    assert isinstance(action, WriteStatus)
    assert (action.fields.get("usedBytes"), action.fields.get("used") is None) == (said, not used)
    assert action.fields["capacityBytes"]


DOWN = {"engine": engine("n1", drives=(drive(4, "n1", "down"),))}
UNSAFE = maintenance.refused("the only copy is there")


@pytest.mark.parametrize(
    ("view", "more", "seen", "said"),
    [
        ({"maintenance": "new fans"}, UNSAFE, {}, "Ready=True Serving"),
        ({"maintenance": "new fans"}, Condition("Maintenance", True, "Granted", "Yes."), {},
         "Ready=False Maintenance"),
        ({}, Condition("Removing", True, "Evacuating", "Left."), {}, "Ready=True Serving"),
        ({}, Condition("Removing", True, "GivingUpDisks", "Empty."), DOWN,
         "Ready=False Removing: Empty."),
        ({}, Condition("Removing", True, "StillSelected", "Label."), {}, "Ready=True Serving"),
    ],
)  # fmt: skip
def test_what_was_refused_is_not_said_to_be_and_what_was_wanted_is_no_fault(view, more, seen, said):
    one = nodes.StorageNodeView("n1", "n1", **view)
    values = {"nodes": NODES[:1], "objects": (one,), "engine": engine("n1"), **seen}
    assert ready_of(nodes.NodesSeen(**values, said={"n1": (more,)})).startswith(said)


def test_the_second_object_for_a_node_is_refused_and_the_first_one_counts():
    objects = (nodes.StorageNodeView("copy", "n1", "rack9"), nodes.StorageNodeView("n1", "n1"))
    seen = nodes.NodesSeen(NODES[:1], objects, engine("n1"))
    text = str(nodes.plan(build(), seen))
    assert "status StorageNode/copy\n    Ready=False Duplicate" in text
    assert "status StorageNode/n1\n    Ready=True Serving" in text
    assert nodes.fault_sets(build(), seen) == {"n1": "zone-n1"}


ENDED = {
    "metadata": {"name": "s-n1", "namespace": "ns", "labels": LABELS},
    "spec": {"nodeName": "n1"},
    "status": {
        "containerStatuses": [
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"message": "LAST"}},
            }
        ]
    },
}


def ended(*lines: str) -> PodView:
    """A server pod whose process ended with these lines."""
    return read.pod(json.loads(json.dumps(ENDED).replace("LAST", "\\n".join(lines))))


@pytest.mark.parametrize(
    ("lines", "known", "said"),
    [
        (
            ("{}", "error: s/identity.json belongs to old, not to n1", "hint: rename it"),
            engine(),
            (
                "Joining: The server of this node has not registered yet. It ended with: "
                "s/identity.json belongs to old, not to n1; rename it."
            ),
        ),
        (
            ("error: the join token file j does not exist",),
            replace(engine("n1"), nodes=(EngineNode("n1", "server", connected=False),)),
            (
                "ServerDown: The server of this node is not connected to a manager. It ended with: "
                "the join token file j does not exist. If the machine was installed anew, its "
                "identity is lost: `kubectl drystone -n ns node forget n1 --yes` frees the "
                "name, and it joins as a new node. What its disks hold is then "
                "given up, and copied from the others. If its block pod does not start either: "
                "`kubectl drystone -n ns node forget block-n1 --yes`"
            ),
        ),
        (("killed",), engine(), "Joining: The server of this node has not registered yet."),
    ],
)
def test_a_renamed_cloned_or_reinstalled_node_says_why_it_does_not_join(lines, known, said):
    one = nodes.StorageNodeView("n1", "n1")
    seen = nodes.NodesSeen(NODES[:1], (one,), known, pods=(ended(*lines),))
    assert ready_of(seen) == f"Ready=False {said}"


def test_a_node_of_another_cluster_is_left_to_it():
    bears: dict[str, Any] = {"drystone.io/server": "ns2.d"}
    other = node("n1", **bears)
    seen = nodes.NodesSeen((other,), (nodes.StorageNodeView("n1", "n1"),), engine("n1"))
    assert ready_of(seen).startswith(
        "Ready=False NodeTaken: Node n1 belongs to StorageCluster ns2.d (namespace.name)."
    )
    looked = cluster.ClusterSeen(nodes=(other,), storage_nodes={"n1": ""}, engine=engine())
    assert cluster.admissions(build(), looked) == []
    mine = replace(other, labels=NODES[0].labels)
    assert cluster.admissions(build(), replace(looked, nodes=(mine,))) != []


def test_a_fail_over_is_told_on_the_node():
    decision = Decision(Step.MOVING, (), "the node is fenced: 1 pod")
    objects = (nodes.StorageNodeView("n1", "n1"),)
    seen = nodes.NodesSeen(NODES[:1], objects, engine("n1"), {"n1": decision})
    assert "Fenced=True MovingPods: The node is fenced: 1 pod." in str(nodes.plan(build(), seen))
