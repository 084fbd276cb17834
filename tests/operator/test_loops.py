"""The loops' figures: over every StorageCluster, and only what is so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

from drystone_common.errors import DataError
from drystone_common.metrics import Metrics
from drystone_operator.handlers.loops import Loops
from drystone_operator.handlers.world import World
from drystone_operator.metrics import OperatorMetrics
from drystone_operator.plan.failover import Step
from drystone_operator.plan.views import Workload
from drystone_operator.resources.base import Platform
from tests.operator.wanted import IMAGES, SQLITE

WAIT_S = 10.0


def storage_cluster(namespace: str) -> dict[str, Any]:
    return {"metadata": {"name": "c", "namespace": namespace}, "spec": SQLITE}


class Around:
    """Two StorageClusters, and what a test says of them."""

    def __init__(self) -> None:
        self.objects = [storage_cluster("one"), storage_cluster("two")]
        self.steps = {"one": Step.FENCING, "two": Step.AWAY}
        self.ready = 1
        self.failing = ""
        self.rounds = 0
        self.metrics = Metrics("operator", "0")

    def world(self) -> World:
        workloads = (
            ("one", Workload("StatefulSet", "c-etcd", "etcd", 3, self.ready)),
            ("two", Workload("Deployment", "c-csi-controller", "csi-controller", 2, 2)),
        )
        return World({"StorageCluster": tuple(self.objects)}, (), (), workloads)

    async def once(self, world: World, about: Any) -> None:
        if isinstance(about, dict):
            self.rounds += 1
            if about["metadata"]["namespace"] == self.failing:
                raise DataError("no")

    def decisions(self, namespace: str, name: str) -> dict[str, Any]:
        return {"n": SimpleNamespace(step=self.steps[namespace])}

    def figure(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"drystone_operator_{name}", labels)

    def missing(self, namespace: str, component: str) -> float | None:
        return self.figure("pods_missing", namespace=namespace, cluster="c", component=component)

    @asynccontextmanager
    async def running(self):
        around: Any = self  # plays the three that the loops ask
        loops = Loops(
            around, around, around, OperatorMetrics(self.metrics), platform=Platform(IMAGES),
            resync_s=0.01, tick_s=0.01,
        )  # fmt: skip
        loops.kick()
        task = asyncio.create_task(loops.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not holds():  # noqa: ASYNC110 - a gauge tells nobody when it changes
            await asyncio.sleep(0.01)


async def test_nodes_in_a_failover_are_counted_over_all_storage_clusters():
    around = Around()
    async with around.running():
        await until(lambda: around.figure("failover_nodes", step="Fencing") == 1)
        assert around.figure("failover_nodes", step="Away") == 1
        around.steps["one"] = Step.AWAY
        await until(lambda: around.figure("failover_nodes", step="Away") == 2)
        assert around.figure("failover_nodes", step="Fencing") == 0


async def test_pods_that_are_not_ready_are_counted_until_their_storage_cluster_is_gone():
    around = Around()
    async with around.running():
        await until(lambda: around.missing("one", "etcd") == 2)
        assert around.missing("two", "csi-controller") == 0
        around.ready = 4
        await until(lambda: around.missing("one", "etcd") == 0)
        around.objects = []
        await until(lambda: around.missing("one", "etcd") is None)


async def test_a_round_that_fails_for_one_storage_cluster_is_not_a_good_one():
    around = Around()
    around.failing = "two"
    async with around.running():
        await until(lambda: (around.figure("rounds_total", result="failed") or 0) > 2)
        assert around.figure("last_round_timestamp_seconds") == 0
        around.failing = ""
        await until(lambda: (around.figure("last_round_timestamp_seconds") or 0) > 0)


def condition(reason: str) -> dict[str, str]:
    return {"type": "Degraded", "status": "True", "reason": reason, "message": "…"}


async def test_conditions_of_every_cluster_are_figures_and_a_former_one_is_gone():
    around = Around()
    one, two = around.objects
    one["status"] = {"conditions": [condition("Warning")]}

    def shown(namespace: str, reason: str) -> float | None:
        return around.figure(
            "cluster_condition",
            namespace=namespace, cluster="c", condition="Degraded", status="True", reason=reason,
        )  # fmt: skip

    async with around.running():
        await until(lambda: shown("one", "Warning") == 1)
        assert shown("two", "Warning") is None
        around.objects[0] = {**one, "status": {"conditions": [condition("Critical")]}}
        await until(lambda: shown("one", "Critical") == 1)
        assert shown("one", "Warning") is None
        around.objects[:] = [two]
        await until(lambda: shown("one", "Critical") is None)
