"""Maintenance and removal of nodes: each step of both, and what stops them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from drystone_operator.handlers.node_work import NodesAsked, leaving
from drystone_operator.plan import maintenance, nodes, removal
from drystone_operator.plan.views import EngineView, MaintenanceView, Unanswered
from tests.operator.wanted import SQLITE, build, drive, engine, node

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = NOW + timedelta(hours=1)
OURS = MaintenanceView(int(HOUR.timestamp()), "new fans" + maintenance.MARK)
PICKED = {**SQLITE, "nodes": {"selector": {"disks": "yes"}}}


def announced(until: datetime | None = HOUR) -> nodes.StorageNodeView:
    what = "new fans" if until is not None and until > NOW else ""
    return nodes.StorageNodeView("n1", "n1", maintenance=what, until=until)


def knows(record: MaintenanceView | None) -> EngineView:
    found = engine("n1", "n2")
    first = replace(found.nodes[0], maintenance=record)
    return replace(found, nodes=(first, *found.nodes[1:]))


def told(one: nodes.StorageNodeView, record: MaintenanceView | None) -> tuple[str, str]:
    action, condition = maintenance.plan(one, knows(record), NOW)
    return str(action or ""), f"{condition.type}={condition.text} {condition.reason}"


BEGIN = "announce maintenance of n1 until 2026-11-22T13:00:00+0000"


@pytest.mark.parametrize(
    ("until", "record", "action", "said"),
    [
        (HOUR, None, BEGIN, "True Granted"),
        (HOUR, OURS, "", "True Granted"),
        (HOUR, replace(OURS, ended=True), BEGIN, "True Granted"),
        (HOUR, replace(OURS, until_s=OURS.until_s - 600), BEGIN, "True Granted"),
        (HOUR, replace(OURS, reason="by hand"), "", "True Granted"),
        (NOW + timedelta(seconds=30), None, "", "True Granted"),
        (None, None, "", "False None"),
        (None, OURS, "end maintenance of n1", "False Ended"),
        (None, replace(OURS, ended=True), "", "False None"),
        (None, replace(OURS, reason="by hand"), "", "True ByCommand"),
        (NOW - timedelta(hours=1), OURS, "", "False Over"),
        (NOW - timedelta(hours=1), None, "", "False None"),
    ],
)
def test_what_an_object_announces_is_announced_once_and_taken_back(until, record, action, said):
    assert told(announced(until), record) == (action, f"Maintenance={said}")


def test_a_maintenance_of_weeks_is_announced_again_as_it_goes_on():
    far = announced(NOW + timedelta(days=30))
    week = int((NOW + timedelta(days=7)).timestamp())
    fresh = replace(OURS, until_s=week - 3600)
    assert told(far, fresh)[0] == ""
    assert told(far, replace(OURS, until_s=week - 2 * 86_400))[0].startswith("announce")


def test_a_node_that_never_registered_has_no_maintenance():
    action, condition = maintenance.plan(announced(), engine("n2"), NOW)
    assert action is None
    assert condition.reason == "None"


def test_a_long_reason_is_cut_so_that_the_mark_stays():
    one = replace(announced(), maintenance="x" * 256)
    assert len(maintenance.reason(one)) == maintenance.REASON_MAX
    assert maintenance.reason(one).endswith(maintenance.MARK)


def going(**more: Any) -> nodes.StorageNodeView:
    view = nodes.StorageNodeView("n1", "n1", evacuate=True, deleting=True, held=True)
    return replace(view, **more)


def holding(groups: int, state: str = "up") -> EngineView:
    drives = (replace(drive(1, "n1", state), held=groups), drive(2, "n2"))
    return engine("n1", "n2", drives=drives)


def away(view: EngineView) -> EngineView:
    first = replace(view.nodes[0], connected=False, beacon_connected=False)
    return replace(view, nodes=(first, *view.nodes[1:]))


OURS_THERE: dict[str, Any] = {"drystone.io/server": "ns.c"}
LABELLED = node("n1", **OURS_THERE)
BARE = node("n1")


def step(one, seen, engine_view) -> tuple[list[str], str]:
    found = removal.plan(build(PICKED), one, (seen,), engine_view)
    return [str(a) for a in found.actions], found.condition.reason if found.condition else ""


def test_the_instance_label_is_what_the_plan_looks_for():
    assert build(PICKED).instance == LABELLED.labels["drystone.io/server"]


def test_a_node_is_emptied_stopped_forgotten_and_only_then_let_go():
    assert step(going(), LABELLED, holding(8)) == ([], "Evacuating")
    assert step(going(), LABELLED, holding(0)) == ([], "GivingUpDisks")
    down = holding(0, "down")
    assert step(going(), LABELLED, down) == (["label Node/n1 drystone.io/server-"], "Stopping")
    assert step(going(), BARE, down) == ([], "Stopping")
    assert step(going(), BARE, away(down)) == (["forget n1"], "Forgetting")
    forgotten = engine("n2", drives=(drive(2, "n2"),))
    assert step(going(), BARE, forgotten) == (["release StorageNode/n1"], "")


def test_a_node_that_is_still_selected_is_not_touched():
    picked = node("n1", disks="yes")
    assert step(going(), picked, holding(8)) == ([], "StillSelected")
    asked = NodesAsked(build(PICKED), (going(),), (picked,), holding(8))
    assert leaving(asked) == frozenset()
    assert leaving(replace(asked, nodes=(BARE,))) == {"n1"}


def test_a_node_that_kubernetes_lost_is_emptied_from_its_copies_elsewhere():
    found = removal.plan(build(PICKED), going(), (), away(holding(8, "down")))
    assert found.disks_leave
    assert found.condition is not None
    assert found.condition.reason == "Evacuating"
    empty = removal.plan(build(PICKED), going(), (), away(holding(0, "down")))
    assert [str(a) for a in empty.actions] == ["forget n1"]


def test_nothing_is_moved_while_no_manager_answers():
    silent = Unanswered("unreachable", "No manager answers.")
    assert step(going(), BARE, silent) == ([], "ManagerUnreachable")


@pytest.mark.parametrize(
    ("view", "actions"),
    [
        ({"deleting": False, "held": False}, ["hold StorageNode/n1"]),
        ({"deleting": False}, []),
        ({"deleting": False, "evacuate": False}, ["release StorageNode/n1"]),
        ({"deleting": False, "evacuate": False, "held": False}, []),
        ({"evacuate": False}, ["release StorageNode/n1"]),
        ({"held": False}, []),
    ],
)
def test_only_an_object_that_evacuates_is_held_back(view, actions):
    assert step(going(**view), LABELLED, holding(8)) == (actions, "")


def test_a_stopped_node_has_no_fault_set_so_that_no_label_is_put_again():
    seen = nodes.NodesSeen((BARE,), (going(),), engine("n1"), stopped=frozenset({"n1"}))
    assert nodes.fault_sets(build(PICKED), seen) == {}
