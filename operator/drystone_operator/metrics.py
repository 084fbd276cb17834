"""Metrics of the operator."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from drystone_common.metrics import Metrics
from drystone_operator.plan.failover import Step

SHOWN: Final = tuple(step.value for step in Step if step is not Step.WELL)


class OperatorMetrics:
    """What is counted; every figure has one writer."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._rounds = metrics.counter(
            "rounds_total", "Rounds over all StorageClusters, by result.", ["result"]
        )
        self._last = metrics.gauge(
            "last_round_timestamp_seconds", "When the last good round ended, in Unix time."
        )
        self._objects = metrics.gauge("objects", "Custom resources seen, by kind.", ["kind"])
        self._failovers = metrics.gauge(
            "failover_nodes", "Nodes in a fail-over, by step.", ["step"]
        )
        self._missing = metrics.gauge(
            "pods_missing",
            "Pods that are wanted and not ready, of each workload.",
            ["namespace", "cluster", "component"],
        )
        self._conditions = metrics.gauge(
            "cluster_condition",
            "1 for every condition of a StorageCluster as it is now.",
            ["namespace", "cluster", "condition", "status", "reason"],
        )
        self.failovers(())

    def render(self) -> bytes:
        """The text of `/metrics`."""
        return self._metrics.render()

    def round(self, good: bool) -> None:
        """A round ended."""
        self._rounds.labels("ok" if good else "failed").inc()
        if good:
            # One that always fails looks after nothing: it must not pass for one that works.
            self._last.set_to_current_time()

    def objects(self, counts: Mapping[str, int]) -> None:
        """How many objects there are."""
        for kind, count in counts.items():
            self._objects.labels(kind).set(count)

    def missing(self, counts: Mapping[tuple[str, str, str], int]) -> None:
        """Pods that are not there, by namespace, StorageCluster and component."""
        self._missing.clear()
        for which, count in counts.items():
            self._missing.labels(*which).set(count)

    def conditions(self, found: Collection[tuple[str, str, str, str, str]]) -> None:
        """Conditions of StorageClusters: namespace, name, type, status and reason of each."""
        self._conditions.clear()
        for which in found:
            self._conditions.labels(*which).set(1)

    def failovers(self, steps: Sequence[str]) -> None:
        """Where nodes are that are not well."""
        for step in SHOWN:
            self._failovers.labels(step).set(steps.count(step))
