"""What a manager exposes to Prometheus; read from memory when it is scraped."""

from __future__ import annotations

from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from drystone_common import __version__
from drystone_common.metrics import Metrics
from drystone_storaged.manager.services import Services


class ManagerMetrics:
    """Gauges over the services; a scrape costs a few lookups."""

    def __init__(self, services: Services) -> None:
        self._metrics = Metrics("manager", __version__)
        gauge = self._metrics.gauge
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

    def listen(self, address: str) -> WSGIServer | None:
        """Serve `/metrics` on a thread of its own; an empty address is off."""
        if not address:
            return None
        host, _, port = address.rpartition(":")
        server, _ = start_http_server(int(port), host.strip("[]"), self._metrics.registry)
        return server
