"""What starts a round: a change of what is read, the engine's too, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from drystone_common.metrics import Metrics
from drystone_operator.handlers.loops import SOON_S, Loops
from drystone_operator.metrics import OperatorMetrics
from drystone_operator.plan.views import PgCounts
from drystone_operator.resources.base import Platform
from drystone_operator.wiring import Wiring
from tests.operator.conftest import Lab
from tests.operator.objects import NAMESPACE, cluster, custom, device, node
from tests.operator.test_rollout import put_server, template
from tests.operator.test_slice import until_serving
from tests.operator.wanted import IMAGES, engine

NEVER_S = 3600.0
LOOKS = 80  # of fail-over at the engine: they take longer than the next round that is due soon


class Kind:
    """The handler that one kind's events have, and how often it kicked."""

    def __init__(self, kind: str) -> None:
        self.kicks = 0
        self.wiring = Wiring(self._kick, lambda **_: None)
        handlers = self.wiring.registry._watching._handlers
        self._handler: Any = next(h.fn for h in handlers if h.id == f"kick-{kind}")

    def _kick(self) -> None:
        self.kicks += 1

    async def event(self, body: dict[str, Any], what: str = "MODIFIED") -> int:
        metadata = body["metadata"]
        before = self.kicks
        await self._handler(
            body=body, type=what, name=metadata["name"], namespace=metadata.get("namespace")
        )
        return self.kicks - before


def heartbeat(body: dict[str, Any], minute: int) -> dict[str, Any]:
    """As a kubelet writes it: nothing is new but the time."""
    (condition,) = body["status"]["conditions"]
    beat = {**condition, "lastHeartbeatTime": f"2026-11-21T00:{minute:02}:00Z"}
    metadata = {**body["metadata"], "uid": "u", "resourceVersion": str(minute)}
    return {**body, "metadata": metadata, "status": {**body["status"], "conditions": [beat]}}


async def test_heartbeats_of_kubelets_start_no_round():
    nodes = Kind("Node")
    assert await nodes.event(heartbeat(node("a"), 0), "ADDED") == 1
    for minute in range(1, 5):
        assert await nodes.event(heartbeat(node("a"), minute)) == 0
    assert await nodes.event(heartbeat(node("a", ready="Unknown"), 6)) == 1
    cordoned = {**heartbeat(node("a", ready="Unknown"), 7), "spec": {"unschedulable": True}}
    assert await nodes.event(cordoned) == 1


async def test_an_object_that_went_and_came_back_the_same_kicks_both_times():
    nodes = Kind("Node")
    await nodes.event(heartbeat(node("a"), 0), "ADDED")
    assert await nodes.event(heartbeat(node("a"), 0), "DELETED") == 1
    assert await nodes.event(heartbeat(node("a"), 0), "ADDED") == 1


async def test_a_write_that_changes_nothing_of_ours_starts_no_round():
    clusters = Kind("StorageCluster")
    body = cluster()
    body["metadata"] |= {"uid": "u", "resourceVersion": "1"}
    assert await clusters.event(body, "ADDED") == 1
    again = {**body["metadata"], "resourceVersion": "2", "managedFields": [{"manager": "x"}]}
    assert await clusters.event({**body, "metadata": again}) == 0
    for bytes_used in range(5):
        written = {"usedBytes": bytes_used, "conditions": [{"type": "Ready"}]}
        assert await clusters.event({**body, "metadata": again, "status": written}) == 0
    known = {"clusterUUID": "11111111-2222-3333-4444-555555555555"}
    assert await clusters.event({**body, "metadata": again, "status": known}) == 1
    spec = {**body["spec"], "cni": "host"}
    assert await clusters.event({**body, "metadata": again, "spec": spec}) == 1


def test_figures_that_always_move_are_no_change_of_the_engine():
    before = engine("a", "b")
    first, *rest = before.drives
    assert replace(before, drives=(replace(first, used=7), *rest)).shape == before.shape
    assert replace(before, drives=(replace(first, resync_left=7), *rest)).shape == before.shape
    for other in (
        replace(before, drives=(replace(first, state="down"), *rest)),
        replace(before, pgs=PgCounts(64, 63, 1)),
        replace(before, nodes=before.nodes[1:]),
        replace(before, health="degraded"),
    ):
        assert other.shape != before.shape


@asynccontextmanager
async def clock(lab: Lab) -> AsyncIterator[None]:
    """Let time pass for fail-over, which counts it itself."""

    async def run() -> None:
        while True:
            lab.now += 1.0
            await asyncio.sleep(0.02)

    task = asyncio.create_task(run())
    try:
        yield
    finally:
        task.cancel()


def degraded(lab: Lab) -> str:
    return str(lab.condition("storageclusters", "c", "Degraded").get("status"))


async def test_nothing_waits_for_a_round_by_time(lab):
    """Set up, a drive that fails and recovers, a disk that is taken: all with `resync_s` away."""
    async with clock(lab), lab.running(resync_s=NEVER_S):
        await until_serving(lab)
        lab.manager.drives[0]["state"] = "down"
        lab.manager.health = "degraded"
        await lab.kube.until(lambda: degraded(lab) == "True")
        lab.manager.drives[0]["state"] = "up"
        lab.manager.health = "ok"
        await lab.kube.until(lambda: degraded(lab) == "False")
        lab.manager.devices["a"] = [device("wwn-1")]
        lab.kube.change("nodes", "a", "", {"metadata": {"labels": {"some": "label"}}})
        await lab.kube.until(lambda: len(lab.kube.all("storagedisks", NAMESPACE)) == 1)


async def test_a_disk_that_is_being_taken_is_looked_at_until_it_is_up(lab):
    """Its server lists it with its drive later than the manager knows the drive."""
    taken = device("disk1")
    lab.manager.devices["a"] = [taken]
    spec = {"nodeName": "a", "device": "disk1", "state": "In"}
    async with clock(lab), lab.running(resync_s=NEVER_S) as operator:
        lab.manager.silent_servers = True
        lab.kube.put("storagedisks", custom("StorageDisk", "mine", spec))
        await until_serving(lab)
        await lab.until_condition("storagedisks", "mine", "Initialising")
        looks = lab.manager.looks
        await lab.kube.until(lambda: lab.manager.looks > looks + LOOKS)
        taken |= {"state": "ours", "drive": f"drive-{ord('a')}"}
        await lab.until_condition("storagedisks", "mine", "Up")
        await settled(lambda: operator.loops.pulse.round_at)


async def test_an_idle_operator_makes_no_rounds(lab):
    async with clock(lab), lab.running(resync_s=NEVER_S) as operator:
        await until_serving(lab)
        await settled(lambda: operator.loops.pulse.round_at)
        last, looks = operator.loops.pulse.round_at, lab.manager.looks
        for beat in range(20):
            for name in ("a", "b", "c"):
                lab.kube.change("nodes", name, "", {"status": {"heartbeat": beat}})
        await lab.kube.until(lambda: lab.manager.looks >= looks + 3)
        assert operator.loops.pulse.round_at == last


async def test_pods_that_a_person_is_to_delete_make_no_rounds(lab):
    """It may take weeks; their deletion is told by the watch."""
    async with clock(lab), lab.running(resync_s=NEVER_S) as operator:
        await until_serving(lab)
        put_server(lab, "a")
        old = template(lab)
        wanted = {"image": {"tag": "2"}, "upgrade": {"strategy": "OnDelete"}}
        lab.kube.change("storageclusters", "c", NAMESPACE, {"spec": wanted})
        await lab.kube.until(lambda: template(lab) != old)
        await lab.until_condition("storageclusters", "c", "Updating", "Progressing")
        await settled(lambda: operator.loops.pulse.round_at)


async def settled(figure: Any) -> None:
    """Wait until a figure stands still for longer than what is under way may take."""
    async with asyncio.timeout(60.0):
        before = -1.0
        while figure() != before:
            before = figure()
            await asyncio.sleep(SOON_S * 1.5)


@pytest.mark.parametrize(
    ("soon", "failures", "pause"),
    [
        (False, 0, 30.0),
        (True, 0, 2.0),
        (False, 1, 4.0),
        (False, 3, 16.0),
        (True, 3, 2.0),
        (False, 99, 30.0),
    ],
)
def test_the_next_round_by_time(soon, failures, pause):
    around: Any = SimpleNamespace()
    loops = Loops(
        around, around, around, OperatorMetrics(Metrics("operator", "0")),
        platform=Platform(IMAGES), resync_s=30.0, tick_s=1.0,
    )  # fmt: skip
    loops._failed = failures
    assert loops._pause(soon=soon) == pause
