"""Metrics of one process: a registry of its own, names that follow one rule.

Names are ``drystone_<component>_<what>_<unit>``, base units, counters end in ``_total``. What a
volume's user sees of it is ``drystone_volume_…``, whichever process serves it.
A volume or drive id is a label only of figures per object, never part of a name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.process_collector import ProcessCollector

from drystone_common.errors import InvariantError

PREFIX: Final = "drystone"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

LATENCY_BUCKETS_S: Final = (
    # From the best a loopback round trip can do to the 10 s after which a guest complains.
    50e-6, 100e-6, 200e-6, 500e-6, 1e-3, 2e-3, 5e-3, 10e-3, 20e-3, 50e-3,
    100e-3, 200e-3, 500e-3, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip

_NAME: Final = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)+")


class Metrics:
    """The metrics of one process; pass it to what counts, there is no global registry."""

    def __init__(self, component: str, version: str) -> None:
        """``component`` is the process's name: manager, server, beacon, block, operator."""
        self._component = component
        self.registry = CollectorRegistry(auto_describe=True)
        ProcessCollector(registry=self.registry)
        build = Info(f"{PREFIX}_build", "Version of the running program.", registry=self.registry)
        build.info({"component": component, "version": version})

    def counter(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Counter:
        """Count events; ``name`` is without prefix and ends in ``_total``."""
        full = self._full_name(name)
        if not name.endswith("_total"):
            raise InvariantError(f"counter {name} must end in _total")
        return Counter(full, help_text, labels, registry=self.registry)

    def gauge(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Gauge:
        """Expose a value that goes up and down."""
        full = self._full_name(name)
        if name.endswith("_total"):
            raise InvariantError(f"gauge {name} must not end in _total")
        return Gauge(full, help_text, labels, registry=self.registry)

    def latency(self, name: str, help_text: str, labels: Sequence[str] = ()) -> Histogram:
        """Observe durations in seconds with the project's fixed buckets."""
        full = self._full_name(name)
        if not name.endswith("_seconds"):
            raise InvariantError(f"latency {name} must end in _seconds")
        return Histogram(full, help_text, labels, buckets=LATENCY_BUCKETS_S, registry=self.registry)

    def render(self) -> bytes:
        """Give the text that ``/metrics`` answers with, of type ``CONTENT_TYPE``."""
        return generate_latest(self.registry)

    def _full_name(self, name: str) -> str:
        full = f"{PREFIX}_{self._component}_{name}"
        if _NAME.fullmatch(full) is None:
            raise InvariantError(f"{full} is not a metric name")
        return full
