"""The cluster as the leading manager sees it, for Prometheus; a standby shows nothing of it.

From memory: a scrape asks no store. Figures of placement groups are those of the newest map.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from drystone_common.metrics import PREFIX
from drystone_storaged.cluster.health import recent
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.records import DriveState
from drystone_storaged.manager.services import Services
from drystone_storaged.manager.status import count_states

PG_STATES: Final = ("in_sync", "degraded", "resyncing", "stalled", "unavailable")

FAMILIES: Final = {
    "pgs": ("Placement groups by pool and state.", ("pool", "state")),
    "pg_epoch_max": ("Highest epoch of a pool's placement groups.", ("pool",)),
    "drives": ("Drives that were not forgotten, by state.", ("state",)),
    "drives_slow": ("Drives that are slow, or out until they pass a test.", ()),
    "drives_ejected": ("Drives that are out because they were slow too often.", ()),
    "drive_strikes": ("How often a drive was slow or hung in the last day.", ("drive",)),
    "problems": ("What is wrong, by code and how grave it is.", ("code", "severity")),
    "scrub_age_seconds": (
        "Time since all of a drive was read back, or since it came if it never was.",
        ("drive", "node"),
    ),
    "divergent_blocks": (
        "Blocks that copies held differently at a pool's last comparison.",
        ("pool",),
    ),
    "tasks": ("Long work that is recorded, by kind and state.", ("kind", "state")),
}
"""Of each name its help and labels."""

Sample = tuple[tuple[str, ...], float]


class ClusterCollector(Collector):
    """Gauges of the cluster."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterable[Metric]:
        """Every family; without samples where this manager does not lead."""
        state = self._services.feed.latest() if self._services.leadership.leads else None
        found = dict.fromkeys(FAMILIES, ()) if state is None else self._samples(state)
        for name, (text, labels) in FAMILIES.items():
            family = GaugeMetricFamily(f"{PREFIX}_manager_{name}", text, labels=labels)
            for values, figure in found[name]:
                family.add_metric(values, figure)
            yield family

    def _samples(self, state: MapState) -> dict[str, Iterable[Sample]]:
        live = (d.state.value for d in state.drives.values() if d.state is not DriveState.GONE)
        problems = Counter((p.code, p.severity.value) for p in self._services.chronicle.known())
        return {
            "pgs": _pgs(state),
            "pg_epoch_max": _epochs(state),
            "drives": [((name,), float(n)) for name, n in Counter(live).items()],
            **self._health(state),
            "problems": [(key, float(count)) for key, count in sorted(problems.items())],
            "scrub_age_seconds": self._ages(state),
            "divergent_blocks": self._divergent(state),
            "tasks": [(key, float(n)) for key, n in sorted(self._services.tasks.counts.items())],
        }

    def _health(self, state: MapState) -> dict[str, Iterable[Sample]]:
        here = {d.id for d in state.drives.values() if d.state is not DriveState.GONE}
        known = {n: h for n, h in self._services.health.known.items() if n in here}
        now_s = self._services.env.wall()
        strikes = [(n, len(recent(h, now_s))) for n, h in sorted(known.items())]
        return {
            "drives_slow": [((), float(len(self._services.slow.slow() & here)))],
            "drives_ejected": [((), float(sum(h.ejected for h in known.values())))],
            "drive_strikes": [((str(n),), float(count)) for n, count in strikes if count],
        }

    def _ages(self, state: MapState) -> Iterator[Sample]:
        now_s = self._services.env.wall()
        for number, record in self._services.scrubs.records.drives.items():
            drive = state.drives.get(number)
            if drive is not None:
                labels = (str(number), drive.node_name)
                yield labels, max(0.0, now_s - (record.done_s or record.since_s))

    def _divergent(self, state: MapState) -> Iterator[Sample]:
        for number, record in self._services.scrubs.records.pools.items():
            pool = state.pools.get(number)
            if pool is not None:
                yield (pool.name,), float(record.divergent)


def _pgs(state: MapState) -> Iterator[Sample]:
    for pool in state.pools.values():
        if pool.id not in state.unreadable_pools:
            counts = count_states(state, [pool])
            for name in PG_STATES:
                yield (pool.name, name), float(counts[name])


def _epochs(state: MapState) -> Iterator[Sample]:
    for pool in state.pools.values():
        epochs = [record.epoch for record in state.known_pgs(pool.id).values()]
        if epochs:
            yield (pool.name,), float(max(epochs))
