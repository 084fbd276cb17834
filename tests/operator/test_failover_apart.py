"""Fail-over of several nodes at a time: what goes wrong with one is that one's alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from drystone_operator.apply.interface import KubeError
from drystone_operator.handlers import failover
from drystone_operator.handlers.failover import Failovers
from drystone_operator.handlers.world import World
from drystone_operator.manager import views
from drystone_operator.names import LABEL_NODE_SERVER
from drystone_operator.plan.views import Unanswered
from tests.operator.wanted import build, node

MANAGER = object()


class Managers:
    def known(self, _build):
        return MANAGER


@pytest.fixture
def failovers(monkeypatch):
    async def no_answer(*_args):
        return Unanswered("not_asked", "")

    monkeypatch.setattr(views, "look_at_nodes", no_answer)
    nobody: Any = None
    managers: Any = Managers()
    return Failovers(
        nobody,
        managers,
        executor=nobody,
        driver="csi.drystone.io",
        monotonic=lambda: 0.0,
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        changed=lambda: None,
    )


def lost(made, *names: str, ready: bool = False) -> World:
    labels = {LABEL_NODE_SERVER: made.instance}
    nodes = tuple(replace(node(n), ready=ready, labels=labels) for n in names)
    return World({}, nodes, (), ())


@pytest.mark.parametrize(
    ("error", "event"),
    [(KeyError("a defect"), "failover_node_failed"), (KubeError(500, "no"), "failover_waits")],
)
async def test_a_node_that_fails_stops_no_other_one(failovers, monkeypatch, error, event):
    made = build()
    done: list[str] = []

    async def look(_world, _build, _memory, node_, _manager):
        if node_.name == "b":
            raise error
        await asyncio.sleep(0)  # the others are under way when it fails
        done.append(node_.name)

    monkeypatch.setattr(failovers, "_node", look)
    with structlog.testing.capture_logs() as logs:
        await failovers.once(lost(made, "b", "a", "c"), made)
    assert done == ["a", "c"]
    assert [(one["event"], one["node"]) for one in logs] == [(event, "b")]


async def test_more_nodes_than_are_looked_after_at_a_time_all_have_their_turn(
    failovers, monkeypatch
):
    made = build()
    names = [f"n{number:02}" for number in range(3 * failover.AT_ONCE_MAX)]
    tried: list[str] = []

    async def look(_world, _build, _memory, node_, _manager):
        tried.append(node_.name)
        raise KeyError("a defect")

    monkeypatch.setattr(failovers, "_node", look)
    await failovers.once(lost(made, *names), made)
    assert sorted(tried) == names


async def test_a_round_that_is_cut_off_ends(failovers, monkeypatch):
    made = build()

    async def look(*_args):
        await asyncio.Event().wait()

    monkeypatch.setattr(failovers, "_node", look)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await failovers.once(lost(made, "a"), made)


async def test_a_node_that_came_back_and_cannot_be_looked_at_holds_up_none(failovers, monkeypatch):
    made = build()
    tried: list[str] = []

    async def come_back(_build, memory, node_, _manager):
        tried.append(node_.name)
        if node_.name == "a":
            raise KubeError(403, "no")
        memory.looked_at.add(node_.name)

    monkeypatch.setattr(failovers, "_come_back", come_back)
    for _ in range(4):
        await failovers.once(lost(made, "a", "b", "c", ready=True), made)
    assert tried == ["a", "b", "c", "a"]
