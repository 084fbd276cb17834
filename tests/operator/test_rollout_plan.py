"""The update of servers: one node after the other, and what the next one waits for."""

from __future__ import annotations

from textwrap import dedent

import pytest

from drystone_operator.models.cluster_parts import UpgradeStrategy
from drystone_operator.plan import rollout
from drystone_operator.plan.views import (
    EngineNode,
    PgCounts,
    Unanswered,
)
from tests.operator.wanted import RACK, ZONES, drive, engine, pod

MUTE = EngineNode("n3", "server", connected=True, beacon_connected=False)
DEAF = Unanswered("unavailable", "Nobody answers.")


TEMPLATES = {"server": "new", "beacon": "new"}


def servers(**templates: str) -> list[object]:
    return [pod(f"s-{n}", n, "server", t) for n, t in templates.items()]


def step(pods, **changes) -> str:
    values = {
        "pods": tuple(pods), "templates": TEMPLATES, "fault_sets": ZONES,
        "engine": engine("n1", "n2", "n3"), **changes,
    }  # fmt: skip
    found = rollout.plan(rollout.RolloutSeen(**values))
    return "\n".join([*(str(a) for a in found.actions), found.message])


def test_nothing_is_replaced_when_every_pod_is_of_the_wanted_version():
    assert step(servers(n1="new", n2="new")) == "every server runs the wanted version"


def test_one_node_is_replaced_with_its_beacon_and_no_other():
    pods = [*servers(n1="old", n2="old", n3="old"), pod("b-n1", "n1", "beacon", "old")]
    assert step(pods) == dedent("""\
        delete Pod/ns/s-n1
        delete Pod/ns/b-n1
        node n1 is being updated""")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"engine": engine("n1", pgs=PgCounts(64, 63, 1))}, "all placement groups are in sync (63"),
        ({"engine": engine("n1", pgs=PgCounts(64, 60, 0, 4))}, "all placement groups are in sync"),
        ({"engine": DEAF}, "a manager answers"),
        ({"nodes_away": frozenset({"n3"})}, "node n3 is back"),
        (
            {"engine": engine("n1", nodes=(MUTE,))},
            "the beacon of node n3 is connected",
        ),
    ],
)
def test_the_next_node_waits_until_everything_is_in_sync(changes, why):
    text = step(servers(n1="old", n2="new"), **changes)
    assert text.startswith("node n1 is next, when ")
    assert why in text


@pytest.mark.parametrize("template", ["old", "new"])
def test_managers_are_replaced_before_servers(template):
    manager = pod("m-0", "n1", "manager", template, ready=template == "old")
    templates = {**TEMPLATES, "manager": "new"}
    text = step([*servers(n1="old"), manager], templates=templates)
    assert text == "node n1 is next, when the managers run the wanted version"


def test_the_next_node_waits_until_the_last_one_is_ready():
    pods = [*servers(n1="old"), pod("s-n2", "n2", "server", "new", ready=False)]
    assert step(pods) == "node n1 is next, when pod s-n2 is ready again"


def test_a_beacon_that_waits_for_its_old_servers_port_holds_no_update_up():
    beacons = [pod(f"b-{n}", n, "beacon", "new", ready=False) for n in ("n1", "n2")]
    pods = [*servers(n1="old", n2="old"), *beacons]
    assert step(pods) == "delete Pod/ns/s-n1\nnode n1 is being updated"
    # The server of n1 was replaced: now its beacon is needed.
    begun = [EngineNode("n1", "server", connected=True, beacon_connected=False)]
    begun += [EngineNode("n2", "server", connected=True)]
    pods = [*servers(n1="new", n2="old"), *beacons]
    waits = step(pods, engine=engine("n1", "n2", nodes=tuple(begun)))
    assert waits == "node n2 is next, when the beacon of node n1 is connected"


def test_a_node_that_is_down_anyhow_comes_first():
    pods = [*servers(n1="old"), pod("s-n2", "n2", "server", "old", ready=False)]
    degraded = engine(
        "n1", pgs=PgCounts(64, 0, 64), drives=(drive(1, "n1"), drive(2, "n2", "down"))
    )
    assert step(pods, engine=degraded) == "delete Pod/ns/s-n2\nnode n2 is being updated"


def test_never_two_nodes_even_of_one_fault_set():
    pods = servers(n1="old", n2="old")
    assert step(pods, fault_sets=RACK).count("delete Pod") == 1


def test_a_person_may_keep_the_update_in_hand():
    text = step(servers(n1="old"), strategy=UpgradeStrategy.ON_DELETE)
    assert text == "pods are replaced when a person deletes them"
