"""What a manager exposes to Prometheus; read from memory when it is scraped."""

from __future__ import annotations

from collections.abc import Callable

from drystone_common import __version__
from drystone_common.metrics import Metrics
from drystone_storaged.manager.services import Services


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
    if certificate_ends is not None:
        gauge(
            "certificate_expiry_seconds", "End of the certificate in use, seconds since the epoch."
        ).set_function(certificate_ends)
    return metrics
