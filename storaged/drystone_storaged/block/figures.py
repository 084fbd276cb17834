"""What an attachment counts, for the control socket and for `/metrics`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from drystone_common.ids import format_id
from drystone_common.metrics import PREFIX
from drystone_storaged.proto import block_pb2

ENGINE_NAMES: Final = {
    "completed_requests": "completed",
    "failed_requests": "failed",
    "writes_issued": "writes",
    "reads_sent": "reads",
    "insync_waits": "insync_waits",
    "credit_waits": "credit_waits",
}
"""Fields of `StatsResponse` and the engine's counters that they show."""

FAILING: Final = ("read", "write", "flush", "trim", "status")  # status: where is data?
LATENCIES: Final = ("read", "write")
US: Final = 1e6

_COUNTERS: Final = (
    # name, text, kind of request, figure
    ("reads", "Reads that ended well.", "read", "completed"),
    ("writes", "Writes that ended well.", "write", "completed"),
    ("flushes", "Flushes that ended well.", "flush", "completed"),
    ("trims", "Trims and written zeros that ended well.", "trim", "completed"),
    ("read_bytes", "Bytes of the reads that ended well.", "read", "bytes"),
    ("written_bytes", "Bytes of the writes that ended well.", "write", "bytes"),
    ("trimmed_bytes", "Bytes of the trims and written zeros that ended well.", "trim", "bytes"),
)


def stats_message(found: Mapping[str, Any]) -> block_pb2.StatsResponse:
    """One volume of the engine's figures by the names of the interface."""
    counters, io = found["counters"], found["io"]
    return block_pb2.StatsResponse(
        **{name: counters[own] for name, own in ENGINE_NAMES.items()},
        in_flight_requests=io["in_flight"],
        read=block_pb2.Operations(**io["read"]),
        write=block_pb2.Operations(**io["write"]),
        flush=block_pb2.Operations(**io["flush"]),
        trim=block_pb2.Operations(**io["trim"]),
        read_latency=_latency(io["read_latency"]),
        write_latency=_latency(io["write_latency"]),
    )


def _latency(found: Mapping[str, Any]) -> block_pb2.Latency:
    buckets = (block_pb2.LatencyBucket(bound_us=us, count=n) for us, n in found["buckets"])
    return block_pb2.Latency(buckets=buckets, count=found["count"], sum_us=found["sum_us"])


class VolumeFigures(Collector):
    """The native thread's counters as they stand: they are counted there, not here.

    A volume that is gone is gone from the answer, and one that is attached again starts at 0, as
    a scraper expects of counters.
    """

    def __init__(self) -> None:
        self._volumes: Mapping[str, Mapping[str, Any]] = {}
        self._stalls: Mapping[str, int] = {}

    def take(self, volumes: Mapping[str, Mapping[str, Any]]) -> None:
        """Show these figures of the engine, by volume number, from here on."""
        self._volumes = {format_id(int(v)): found["io"] for v, found in volumes.items()}
        self._stalls = {
            format_id(int(v)): found["counters"]["stall_us"] for v, found in volumes.items()
        }

    def collect(self) -> Iterable[Metric]:
        """Give every family, also when nothing is attached."""
        for name, text, kind, figure in _COUNTERS:
            counter = CounterMetricFamily(_name(name), text, labels=["volume"])
            for volume, io in self._volumes.items():
                counter.add_metric([volume], io[kind][figure])
            yield counter
        yield self._errors()
        stall = CounterMetricFamily(
            _name("stall_seconds"),
            "Time in which a write waited for copies: for enough of them, for room, or an answer.",
            labels=["volume"],
        )
        for volume, stall_us in self._stalls.items():
            stall.add_metric([volume], stall_us / US)
        yield stall
        gauge = GaugeMetricFamily(
            _name("in_flight_requests"), "Requests that wait for their answer.", labels=["volume"]
        )
        for volume, io in self._volumes.items():
            gauge.add_metric([volume], io["in_flight"])
        yield gauge
        for kind in LATENCIES:
            yield self._histogram(kind)

    def _errors(self) -> Metric:
        errors = CounterMetricFamily(
            _name("errors"), "Requests that ended with an error.", labels=["volume", "operation"]
        )
        for volume, io in self._volumes.items():
            for kind in FAILING:
                errors.add_metric([volume, kind], io[kind]["failed"])
        return errors

    def _histogram(self, kind: str) -> Metric:
        family = HistogramMetricFamily(
            _name(f"{kind}_latency_seconds"),
            f"Time of a {kind} that ended well, from taking it to its answer.",
            labels=["volume"],
        )
        for volume, io in self._volumes.items():
            found = io[f"{kind}_latency"]
            buckets = [(repr(us / US), float(n)) for us, n in found["buckets"]]
            buckets.append(("+Inf", float(found["count"])))
            family.add_metric([volume], buckets, sum_value=found["sum_us"] / US)
        return family


def _name(what: str) -> str:
    return f"{PREFIX}_volume_{what}"
