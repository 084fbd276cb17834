"""What a drive's thread counts, for `/metrics`: the native figures as they stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Final

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from drystone_common.metrics import PREFIX

US: Final = 1e6
BLOCK_BYTES: Final = 4096
OPERATIONS: Final = ("read", "write", "flush")

COUNTERS: Final = (
    # name, text, counter of the engine
    ("resync_bytes", "Bytes copied to the drive by joins since the open.", "resync_bytes"),
    ("checksum_errors", "Blocks found bad since the open, each once.", "bad_found"),
    ("repairs", "Blocks healed from another copy since the open.", "healed"),
)

Stats = Mapping[str, Any]


def _counted(counter: str, stats: Stats) -> float:
    return float(stats["counters"][counter])


def _gc_bytes(stats: Stats) -> float:
    return float(stats["log"]["moved_blocks"] * BLOCK_BYTES)


def _gc_segments(stats: Stats) -> float:
    return float(stats["log"]["collected_segments"])


def _checkpoints(stats: Stats) -> float:
    return float(stats["log"]["checkpoints"])


def _p99(stats: Stats) -> float:
    return float(stats["device"]["p99_us"]) / US


def _depth(stats: Stats) -> float:
    return float(stats["device"]["queue_depth"])


LOG: Final[tuple[tuple[str, str, Callable[[Stats], float]], ...]] = (
    ("gc_moved_bytes", "Bytes that cleaning of the log moved since the open.", _gc_bytes),
    ("gc_segments", "Segments that cleaning emptied since the open.", _gc_segments),
    ("checkpoints", "Checkpoints of the log since the open.", _checkpoints),
)
DEVICE: Final[tuple[tuple[str, str, Callable[[Stats], float]], ...]] = (
    ("p99_seconds", "Time that 99 of 100 operations of the last 5 s did not exceed.", _p99),
    ("queue_depth", "Operations at the device now.", _depth),
)


class DriveFigures(Collector):
    """Figures of the drives that are served.

    A drive that is closed is gone from the answer, and one that is opened again starts at 0, as a
    scraper expects of counters.
    """

    def __init__(self) -> None:
        self._drives: Mapping[int, Stats] = {}

    def take(self, drives: Mapping[int, Stats]) -> None:
        """Show these figures of the engine, by drive number, from here on."""
        self._drives = drives

    def collect(self) -> Iterable[Metric]:
        """Give every family, also when nothing is served."""
        for name, text, counter in COUNTERS:
            yield self._counter(name, text, partial(_counted, counter))
        for name, text, figure in LOG:
            yield self._counter(name, text, figure)
        for name, text, figure in DEVICE:
            yield self._gauge(name, text, figure)
        yield self._margin()
        yield self._segments()
        yield self._latency()
        yield self._refused()

    def _counter(self, name: str, text: str, figure: Callable[[Stats], float]) -> Metric:
        family = CounterMetricFamily(_name(name), text, labels=["drive"])
        for drive, stats in self._drives.items():
            family.add_metric([str(drive)], figure(stats))
        return family

    def _gauge(self, name: str, text: str, figure: Callable[[Stats], float]) -> Metric:
        family = GaugeMetricFamily(_name(name), text, labels=["drive"])
        for drive, stats in self._drives.items():
            family.add_metric([str(drive)], figure(stats))
        return family

    def _margin(self) -> Metric:
        family = GaugeMetricFamily(
            _name("lease_margin_seconds"),
            "Least time that the read lease still had since the figures were read before.",
            labels=["drive"],
        )
        for drive, stats in self._drives.items():
            if stats["lease_margin_us"] is not None:
                family.add_metric([str(drive)], stats["lease_margin_us"] / US)
        return family

    def _segments(self) -> Metric:
        family = GaugeMetricFamily(
            _name("segments"), "Segments of the log by state.", labels=["drive", "state"]
        )
        for drive, stats in self._drives.items():
            for state, count in stats["log"]["segments"].items():
                family.add_metric([str(drive), state], count)
        return family

    def _latency(self) -> Metric:
        family = HistogramMetricFamily(
            _name("io_latency_seconds"),
            "Time of an operation at the device, from handing it over to its end.",
            labels=["drive", "operation"],
        )
        for drive, stats in self._drives.items():
            for operation in OPERATIONS:
                found = stats["device"][operation]
                buckets = [(repr(us / US), float(n)) for us, n in found["buckets"]]
                buckets.append(("+Inf", float(found["count"])))
                family.add_metric([str(drive), operation], buckets, found["sum_us"] / US)
        return family

    def _refused(self) -> Metric:
        family = CounterMetricFamily(
            _name("connections_refused"),
            "Connections that the drive refused, by reason.",
            labels=["drive", "reason"],
        )
        for drive, stats in self._drives.items():
            for reason, count in stats["refused"].items():
                family.add_metric([str(drive), reason], count)
        return family


def _name(what: str) -> str:
    return f"{PREFIX}_server_drive_{what}"
