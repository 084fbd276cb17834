"""What a manager exposes to Prometheus; read from memory when it is scraped."""

from __future__ import annotations

import functools
from collections.abc import Callable

from drystone_common import __version__
from drystone_common.metrics import Metrics
from drystone_storaged.cluster.maprecords import Kind
from drystone_storaged.manager.cluster_metrics import ClusterCollector
from drystone_storaged.manager.services import Services
from drystone_storaged.manager.tally import TallyCollector


def manager_metrics(
    services: Services, certificate_ends: Callable[[], float] | None = None
) -> Metrics:
    """Gauges over the services; a scrape costs a few lookups."""
    metrics = Metrics("manager", __version__)
    gauge = metrics.gauge
    gauge("leader_state", "1 while this manager leads.").set_function(
        lambda: float(services.leadership.leads)
    )
    gauge("map_revision", "Revision of the newest map.").set_function(
        lambda: float(state.revision if (state := services.feed.latest()) else 0)
    )
    gauge("server_sessions", "Connected storage servers.").set_function(
        lambda: float(len(services.sessions.all("server")))
    )
    gauge("client_sessions", "Connected block daemons.").set_function(
        lambda: float(len(services.sessions.all("client")))
    )
    refused = gauge(
        "refused_records", "Keys of the metadata store that are set aside, by kind.", ("kind",)
    )
    for kind in Kind:
        refused.labels(kind.value).set_function(functools.partial(_refused, services, kind))
    metrics.registry.register(TallyCollector(services.tally))
    gauge(
        "moves_left", "Placement groups that are not where they shall be, as of the last look."
    ).set_function(lambda: float(sum(f.left for f in services.upkeep.outlook.figures.values())))
    gauge("moves_running", "Those of them that are on their way.").set_function(
        lambda: float(sum(f.running for f in services.upkeep.outlook.figures.values()))
    )
    metrics.registry.register(ClusterCollector(services))
    if certificate_ends is not None:
        gauge(
            "certificate_expiry_seconds", "End of the certificate in use, seconds since the epoch."
        ).set_function(certificate_ends)
    return metrics


def _refused(services: Services, kind: Kind) -> float:
    return float(sum(one.kind is kind for one in services.feed.refused))
