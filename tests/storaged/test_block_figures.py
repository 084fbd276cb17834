"""What an attachment counts, as the control socket and `/metrics` give it."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drystone_common.metrics import LATENCY_BUCKETS_S, Metrics
from drystone_storaged.block.app import BlockMetrics
from drystone_storaged.block.figures import VolumeFigures, stats_message
from tests.storaged.fake_native import ENGINE_COUNTERS, ENGINE_IO
from tests.storaged.manager_env import until

ROOT = Path(__file__).resolve().parents[2]
VOLUME = 'volume="000000000000000a"'


def found() -> dict[str, Any]:
    """One volume, 10, as the engine gives it."""
    return {"10": {"state": "active", "counters": ENGINE_COUNTERS, "io": ENGINE_IO}}


@pytest.fixture
def shown():
    """The text of `/metrics` for volumes as the engine gives them."""
    metrics = Metrics("block", "1")
    figures = VolumeFigures()
    metrics.registry.register(figures)

    def text(volumes) -> str:
        figures.take(volumes)
        return metrics.render().decode()

    return text


def test_every_figure_of_a_volume_is_a_metric_with_its_label(shown):
    lines = shown(found()).splitlines()
    for name, value in {
        "reads_total": 5, "writes_total": 3, "flushes_total": 1, "trims_total": 1,
        "read_bytes_total": 20480, "written_bytes_total": 12288, "trimmed_bytes_total": 1 << 20,
        "in_flight_requests": 2, "stall_seconds_total": 1.5,
    }.items():  # fmt: skip
        (line,) = [li for li in lines if li.startswith(f"drystone_volume_{name}{{")]
        assert f"{{{VOLUME}}}" in line
        assert float(line.rpartition(" ")[2]) == value, name


def test_errors_are_told_apart_by_operation(shown):
    text = shown(found())
    errors = dict(re.findall(r'errors_total\{operation="(\w+)",' + VOLUME + r"\} (\S+)", text))
    assert {kind: float(n) for kind, n in errors.items()} == {
        "read": 0, "write": 1, "flush": 0, "trim": 0, "status": 0,
    }  # fmt: skip


def test_latencies_are_cumulative_histograms_in_seconds(shown):
    text = shown(found())
    assert "# TYPE drystone_volume_read_latency_seconds histogram" in text
    buckets = re.findall(r'read_latency_seconds_bucket\{le="(\S+?)",' + VOLUME + r"\} (\S+)", text)
    assert buckets == [("5e-05", "1.0"), ("0.0001", "4.0"), ("+Inf", "5.0")]
    assert f"read_latency_seconds_count{{{VOLUME}}} 5.0" in text
    assert f"read_latency_seconds_sum{{{VOLUME}}} 0.0007" in text


def test_the_figures_of_a_detached_volume_go_and_their_families_stay(shown):
    assert VOLUME in shown(found())
    text = shown({})
    assert VOLUME not in text
    assert "# TYPE drystone_volume_reads_total counter" in text


def test_the_native_bounds_are_those_of_every_other_latency():
    source = (ROOT / "storaged/native/crates/types/src/latency.rs").read_text()
    numbers = source.partition("LATENCY_BOUNDS_US: [u64; 17] = [")[2].partition("]")[0]
    bounds = [int(number.replace("_", "")) for number in re.findall(r"[\d_]+", numbers)]
    assert [us / 1e6 for us in bounds] == list(LATENCY_BUCKETS_S)


def test_the_control_socket_gives_the_same_figures():
    message = stats_message(found()["10"])
    assert (message.completed_requests, message.in_flight_requests) == (9, 2)
    assert (message.read.completed, message.read.bytes) == (5, 20480)
    assert (message.write.failed, message.flush.completed) == (1, 1)
    assert message.trim.bytes == 1 << 20
    assert [(b.bound_us, b.count) for b in message.read_latency.buckets] == [(50, 1), (100, 4)]
    assert (message.write_latency.count, message.write_latency.sum_us) == (3, 240)


async def test_a_scrape_brings_the_figures_of_the_engine():
    async def stats() -> dict[str, Any]:
        return {"volumes": found()}

    daemon: Any = SimpleNamespace(
        volumes=SimpleNamespace(list=lambda: [1]),
        reports=SimpleNamespace(bad_blocks=0),
        engine=SimpleNamespace(stats=stats),
    )
    metrics = Metrics("block", "1")
    gauges = BlockMetrics(metrics, daemon)
    refresh = asyncio.create_task(gauges.run())
    try:
        wanted = f"drystone_volume_written_bytes_total{{{VOLUME}}} 12288.0"
        await until(lambda: wanted in metrics.render().decode(), "the figures")
    finally:
        refresh.cancel()
        await asyncio.gather(refresh, return_exceptions=True)


async def test_figures_that_cannot_be_shown_do_not_end_the_daemon_that_writes_wait_for():
    metrics = Metrics("block", "1")
    asked = asyncio.Event()

    async def stats():
        asked.set()
        return {"volumes": {"10": {"state": "active", "counters": ENGINE_COUNTERS}}}

    daemon: Any = SimpleNamespace(
        volumes=SimpleNamespace(list=list),
        reports=SimpleNamespace(bad_blocks=0),
        engine=SimpleNamespace(stats=stats),
    )
    refresh = asyncio.create_task(BlockMetrics(metrics, daemon).run())
    try:
        await until(asked.is_set, "the question")
        for _ in range(20):
            await asyncio.sleep(0)
        assert not refresh.done()
        assert VOLUME not in metrics.render().decode()
    finally:
        refresh.cancel()
        await asyncio.gather(refresh, return_exceptions=True)
