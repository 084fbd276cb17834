"""What the driver counts: calls of kubelet and of the sidecars."""

from __future__ import annotations

from drystone_common.metrics import Metrics
from drystone_csi.intercept import Outcome


class CsiMetrics:
    """Calls by method; methods are those of the interface, so labels are bounded."""

    def __init__(self, metrics: Metrics) -> None:
        self._calls = metrics.counter(
            "calls_total", "Calls that ended, by method and status.", ["method", "code"]
        )
        self._seconds = metrics.latency(
            "call_seconds", "Time of a call, however it ended.", ["method"]
        )

    def ended(self, method: str, outcome: Outcome, seconds: float) -> None:
        """Count a call; its code is ours where there is one, else the status of gRPC."""
        self._calls.labels(method, outcome.code or outcome.status.name).inc()
        self._seconds.labels(method).observe(seconds)
