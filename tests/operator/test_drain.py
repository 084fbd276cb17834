"""Drains: which guard pods there are, which are taken away, and what is said meanwhile."""

from __future__ import annotations

from dataclasses import replace
from textwrap import dedent
from typing import Any

import pytest

from drystone_operator.names import LABEL_CLUSTER
from drystone_operator.plan import drain
from drystone_operator.plan.actions import Apply
from drystone_operator.plan.views import (
    EngineNode,
    EnginePool,
    NodeView,
    PgCounts,
    PodView,
    Unanswered,
)
from drystone_operator.resources import guards
from tests.operator.conftest import Lab
from tests.operator.objects import NAMESPACE
from tests.operator.test_rollout import put_server
from tests.operator.test_slice import until_serving
from tests.operator.wanted import build, drive, engine, node, pod

NAMES = ("n1", "n2", "n3", "n4")
RACKS = {"n1": "r1", "n2": "r1", "n3": "r2", "n4": "r2"}
BUILD = build()
DEAF = Unanswered("unavailable", "Nobody answers.")


def nodes(*cordoned: str, gone: tuple[str, ...] = ()) -> tuple[NodeView, ...]:
    """Four storage nodes."""
    label = {"drystone.io/server": BUILD.instance}
    made = [node(name, ready=name not in gone, **label) for name in NAMES]
    return tuple(replace(n, unschedulable=n.name in cordoned) for n in made)


def guard(name: str, **more: Any) -> PodView:
    return replace(pod(guards.pod_name(BUILD, name), name, "guard", ""), **more)


def pods(*without: str) -> tuple[PodView, ...]:
    """A server on every node, and a guard but where there is none."""
    servers = [pod(f"s-{name}", name, "server", "t") for name in NAMES]
    return (*servers, *(guard(name) for name in NAMES if name not in without))


def pool(domain: str = "fault-set", copies: int = 3) -> EnginePool:
    return EnginePool(1, "p", copies, 2, domain, 0, 0, 0, PgCounts(64, 64))


def racked(**more: Any) -> Any:
    """Two racks of two, and a pool that keeps its copies in different ones."""
    found = engine(*NAMES, pools=(pool(copies=2),), **more)
    placed = tuple(replace(n, fault_set=RACKS.get(n.name, "")) for n in found.nodes)
    return replace(found, nodes=placed)


def plan(**seen: Any) -> drain.Drain:
    values = {
        "nodes": nodes(), "storage_nodes": frozenset(NAMES), "pods": pods(),
        "engine": engine(*NAMES), **seen,
    }  # fmt: skip
    return drain.plan(BUILD, drain.DrainSeen(**values))


def let_go(found: drain.Drain) -> list[str]:
    return [str(a).removeprefix("let go Pod/ns/c-guard-") for a in found.actions[1:]]


def said(found: drain.Drain, name: str) -> str:
    return str(found.conditions[name])


def test_every_storage_node_gets_a_guard_and_none_may_be_evicted():
    assert str(plan(pods=())) == dedent("""\
        apply PodDisruptionBudget/c-guard
        create Pod/c-guard-n1
        create Pod/c-guard-n2
        create Pod/c-guard-n3
        create Pod/c-guard-n4
        n1: Draining=False NotCordoned: The node is not cordoned.
        n2: Draining=False NotCordoned: The node is not cordoned.
        n3: Draining=False NotCordoned: The node is not cordoned.
        n4: Draining=False NotCordoned: The node is not cordoned.""")
    first = plan().actions[0]
    assert isinstance(first, Apply)
    spec = first.body["spec"]
    assert spec["minAvailable"] == 4
    assert spec["selector"]["matchLabels"][LABEL_CLUSTER] == "c"


def test_nodes_without_our_label_or_object_have_no_guard():
    others = (node("n5"), *nodes())
    made = plan(nodes=others, storage_nodes=frozenset(("n1", "n5")), pods=())
    assert [str(a) for a in made.actions[1:]] == ["create Pod/c-guard-n1"]


def test_a_cordoned_node_is_let_go_when_everything_is_in_sync():
    found = plan(nodes=nodes("n2"))
    assert let_go(found) == ["n2"]
    assert said(found, "n2").startswith("Draining=True LetGo: It was let go")


def test_a_cordoned_node_that_was_let_go_gets_no_new_guard():
    found = plan(nodes=nodes("n2"), pods=pods("n2"))
    assert found.actions[1:] == ()
    assert found.leaving == {"n2"}


def test_the_next_node_waits_until_the_one_before_is_back():
    found = plan(nodes=nodes("n1", "n2"), pods=pods("n2"))
    assert let_go(found) == []
    assert said(found, "n1") == (
        "Draining=True Waiting: Its drain waits until node n2, which was let go, is back and "
        "uncordoned."
    )


def test_of_two_nodes_that_are_cordoned_at_once_one_is_let_go():
    found = plan(nodes=nodes("n3", "n2"))
    assert let_go(found) == ["n2"]
    assert "node n2, which is let go, is back" in said(found, "n3")


def test_between_an_uncordon_and_the_new_guard_nobody_goes():
    found = plan(nodes=nodes("n1"), pods=pods("n2"))
    assert let_go(found) == ["create Pod/c-guard-n2"]
    assert "waits until node n2 has its guard pod" in said(found, "n1")


SICK = replace(drive(2, "n2"), in_sync=3, joining=1)
DOWN = replace(drive(2, "n2", "down"), out=4)


@pytest.mark.parametrize(
    ("seen", "why"),
    [
        ({"engine": DEAF}, "a manager answers"),
        (
            {"engine": engine(*NAMES, drives=(drive(1, "n1"), SICK))},
            "drive 2 of node n2 is up and in sync",
        ),
        (
            {"engine": engine(*NAMES, drives=(drive(1, "n1"), DOWN))},
            "drive 2 of node n2 is up and in sync",
        ),
        (
            {"engine": engine(*NAMES, pgs=PgCounts(64, 60, 4))},
            "all placement groups are in sync (60 of 64)",
        ),
        (
            {"engine": engine(*NAMES, pgs=PgCounts(64, 60, 4, 0, 3, 1))},
            "no placement group waits for copies (4 do)",
        ),
        ({"nodes": nodes("n1", gone=("n3",))}, "node n3 is ready"),
        (
            {"pods": tuple(replace(p, ready=p.name != "s-n2") for p in pods())},
            "pod s-n2 is ready again",
        ),
        ({"pods": tuple(p for p in pods() if p.name != "s-n2")}, "node n2 has a server pod"),
    ],
)
def test_a_drain_waits_and_says_for_what(seen, why):
    found = plan(**{"nodes": nodes("n1"), **seen})
    assert let_go(found) == []
    assert said(found, "n1") == f"Draining=True Waiting: Its drain waits until {why}."


def test_a_server_or_beacon_that_is_away_holds_the_others():
    lost = engine(*NAMES)
    mute = [replace(n, beacon_connected=False) if n.name == "n2" else n for n in lost.nodes]
    found = plan(nodes=nodes("n1"), engine=replace(lost, nodes=tuple(mute)))
    assert "the beacon of node n2 is connected" in said(found, "n1")
    cut = [replace(n, connected=n.name != "n2") for n in lost.nodes]
    found = plan(nodes=nodes("n1"), engine=replace(lost, nodes=tuple(cut)))
    assert "the server of node n2 is connected" in said(found, "n1")


def test_a_node_that_is_itself_out_of_sync_may_be_drained():
    seen = engine(*NAMES, drives=(drive(1, "n1"), SICK, drive(3, "n3")), pgs=PgCounts(64, 60, 0, 4))
    assert let_go(plan(nodes=nodes("n2"), engine=seen)) == ["n2"]


def test_the_rest_of_a_fault_set_may_go_where_no_pool_has_two_copies_in_one():
    found = plan(nodes=nodes("n1", "n2", "n3"), engine=racked())
    assert let_go(found) == ["n1", "n2"]
    assert "node n1, which is let go, is back" in said(found, "n3")
    away = plan(nodes=nodes("n2", "n3"), pods=pods("n3"), engine=racked())
    assert let_go(away) == []
    again = plan(nodes=nodes("n4", "n3"), pods=pods("n3"), engine=racked())
    assert let_go(again) == ["n4"]


def test_the_fault_set_of_a_node_that_failed_may_be_drained_but_no_other():
    drives = (drive(1, "n1"), DOWN, drive(3, "n3"), drive(4, "n4"))
    seen = racked(drives=drives, pgs=PgCounts(64, 32, 32))
    assert let_go(plan(nodes=nodes("n1", "n3"), engine=seen)) == ["n1"]


@pytest.mark.parametrize("pools", [(), (pool("node"),), (pool(), pool("drive")), (pool(copies=1),)])
def test_one_node_at_a_time_where_a_pool_has_two_copies_in_a_fault_set(pools):
    seen = replace(racked(), pools=pools)
    assert let_go(plan(nodes=nodes("n1", "n2"), engine=seen)) == ["n1"]


def test_a_node_that_holds_nothing_is_let_go_whatever_the_others_do():
    seen = engine(*NAMES, drives=(drive(1, "n1"), SICK))
    assert let_go(plan(nodes=nodes("n3"), engine=seen)) == ["n3"]
    dead = engine(*NAMES, drives=(SICK, DOWN, replace(drive(3, "n3", "down"), out=9)))
    assert let_go(plan(nodes=nodes("n3"), engine=dead)) == ["n3"]
    last = engine(*NAMES, drives=(SICK, replace(drive(3, "n3", "down"), in_sync=9)))
    assert let_go(plan(nodes=nodes("n3"), engine=last)) == []


def test_a_node_whose_beacon_votes_counts_without_any_drive():
    voter = EngineNode("n4", "server", connected=True, votes=True)
    base = engine("n1", "n2", "n3")
    seen = replace(base, nodes=(*base.nodes, voter))
    assert let_go(plan(nodes=nodes("n1", "n4"), engine=seen)) == ["n1"]
    away = plan(nodes=nodes("n1", "n4"), pods=pods("n4"), engine=seen)
    assert let_go(away) == []


def test_a_guard_that_ended_is_made_anew_and_one_without_a_node_goes():
    ended = (*pods("n1"), guard("n1", finished=True))
    assert let_go(plan(pods=ended)) == ["n1"]
    assert let_go(plan(storage_nodes=frozenset(("n1", "n2", "n3")))) == ["n4"]


EVICTED = {"deleting": True, "held": True}


def test_a_guard_that_somebody_else_deleted_was_not_let_go():
    evicted = (*pods("n2"), guard("n2", **EVICTED))
    sick = engine(*NAMES, drives=(drive(1, "n1"), replace(drive(3, "n3"), in_sync=3, joining=1)))
    found = plan(
        nodes=nodes("n2"), pods=evicted, engine=replace(sick, drives=(*sick.drives, drive(2, "n2")))
    )
    assert let_go(found) == []
    assert found.leaving == frozenset()
    assert said(found, "n2").startswith("Draining=True Waiting")
    assert let_go(plan(nodes=nodes("n2"), pods=evicted)) == ["n2"]
    gone = (*pods("n2"), guard("n2", deleting=True))
    assert plan(nodes=nodes("n2"), pods=gone).leaving == {"n2"}


def test_a_deleted_guard_of_a_node_that_is_not_drained_makes_room_for_a_new_one():
    evicted = (*pods("n2"), guard("n2", **EVICTED))
    assert let_go(plan(pods=evicted)) == ["n2"]
    assert let_go(plan(pods=pods("n2"))) == ["create Pod/c-guard-n2"]


def test_the_last_storage_node_leaves_no_guard_behind():
    found = plan(storage_nodes=frozenset(), pods=(guard("n1", **EVICTED),))
    assert [str(a) for a in found.actions] == ["let go Pod/ns/c-guard-n1"]


# With the whole operator -----------------------------------------------------------------


def guarded(lab: Lab) -> set[str]:
    found = (body["metadata"]["name"] for body in lab.kube.all("pods", NAMESPACE))
    return {name.removeprefix("c-guard-") for name in found if name.startswith("c-guard-")}


def cordon(lab: Lab, name: str, *, cordoned: bool) -> None:
    lab.kube.change("nodes", name, "", {"spec": {"unschedulable": cordoned or None}})


async def test_nodes_are_let_go_one_after_the_other_as_they_come_back(lab):
    async with lab.running():
        await until_serving(lab)
        for name in ("a", "b", "c"):
            put_server(lab, name)
        await lab.kube.until(lambda: guarded(lab) == {"a", "b", "c"})
        body = lab.kube.get("pods", "c-guard-a", NAMESPACE)
        assert body["metadata"]["ownerReferences"][0]["controller"] is True
        lab.manager.pgs = {**lab.manager.pgs, "in_sync": 60, "degraded": 4}
        cordon(lab, "a", cordoned=True)
        cordon(lab, "b", cordoned=True)
        message = await lab.until_condition("storagenodes", "a", "Waiting", "Draining")
        assert message == "Its drain waits until all placement groups are in sync (60 of 64)."
        assert guarded(lab) == {"a", "b", "c"}
        lab.manager.pgs = {**lab.manager.pgs, "in_sync": 64, "degraded": 0}
        await lab.kube.until(lambda: guarded(lab) == {"b", "c"})
        message = await lab.until_condition("storagenodes", "b", "Waiting", "Draining")
        assert "until node a, which " in message
    async with lab.running():
        await lab.until_condition("storagenodes", "a", "LetGo", "Draining")
        assert guarded(lab) == {"b", "c"}
        cordon(lab, "a", cordoned=False)
        await lab.kube.until(lambda: guarded(lab) == {"a", "c"})
        await lab.until_condition("storagenodes", "a", "NotCordoned", "Draining")


async def test_an_eviction_that_asked_no_budget_takes_no_guard_away(lab):
    async with lab.running():
        await until_serving(lab)
        for name in ("a", "b", "c"):
            put_server(lab, name)
        await lab.kube.until(lambda: guarded(lab) == {"a", "b", "c"})
        lab.manager.pgs = {**lab.manager.pgs, "in_sync": 60, "degraded": 4}
        cordon(lab, "a", cordoned=True)
        lab.kube.remove("pods", "c-guard-a", NAMESPACE)
        await lab.until_condition("storagenodes", "a", "Waiting", "Draining")
        assert guarded(lab) == {"a", "b", "c"}
        lab.manager.pgs = {**lab.manager.pgs, "in_sync": 64, "degraded": 0}
        await lab.kube.until(lambda: guarded(lab) == {"b", "c"})
        lab.kube.remove("storageclusters", "c", NAMESPACE)
        await lab.kube.until(lambda: guarded(lab) == set())
