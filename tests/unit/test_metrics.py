"""Metric names follow one rule, and every process has its own registry."""

from __future__ import annotations

import pytest

from drystone_common.errors import InvariantError
from drystone_common.metrics import LATENCY_BUCKETS_S, Metrics


@pytest.fixture
def metrics() -> Metrics:
    return Metrics("server", "1.2.3")


def test_the_build_is_always_exposed(metrics):
    assert b'drystone_build_info{component="server",version="1.2.3"} 1.0' in metrics.render()


def test_counters_gauges_and_latencies_carry_prefix_and_unit(metrics):
    metrics.counter("writes_total", "Writes.").inc(2)
    metrics.gauge("free_bytes", "Free.", ["drive"]).labels("3").set(5)
    metrics.latency("write_seconds", "Writes.").observe(0.0001)
    text = metrics.render().decode()
    assert "drystone_server_writes_total 2.0" in text
    assert 'drystone_server_free_bytes{drive="3"} 5.0' in text
    assert 'drystone_server_write_seconds_bucket{le="0.0001"} 1.0' in text


def test_two_processes_in_one_interpreter_do_not_share_metrics(metrics):
    other = Metrics("block", "1")
    other.counter("reads_total", "Reads.")
    assert b"reads_total" not in metrics.render()


@pytest.mark.parametrize(
    "make",
    [
        lambda m: m.counter("writes", "x"),
        lambda m: m.gauge("writes_total", "x"),
        lambda m: m.latency("write_ms", "x"),
        lambda m: m.gauge("Free-Bytes", "x"),
        lambda m: m.gauge("free bytes", "x"),
    ],
)
def test_names_against_the_rule_are_refused(metrics, make):
    with pytest.raises(InvariantError):
        make(metrics)


def test_latency_buckets_reach_from_50_microseconds_to_10_seconds_in_order():
    assert LATENCY_BUCKETS_S[0] == 50e-6
    assert LATENCY_BUCKETS_S[-1] == 10.0
    assert list(LATENCY_BUCKETS_S) == sorted(set(LATENCY_BUCKETS_S))
