"""What running processes serve is what docs/metrics.md says, both ways, and it moves."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import grpc
import httpx
import pytest

from drystone_csi.proto import csi_pb2, csi_pb2_grpc
from tests.e2e.lib.cluster import Cluster, temporary_cluster
from tests.e2e.lib.nbd import Nbd
from tests.e2e.lib.waits import wait_for
from tests.unit.test_docs_names import documented_metrics

pytestmark = pytest.mark.timeout(420)

DEADLINE_S = 90.0
BLOCK = 4096

Samples = dict[str, float]

MOVING = {
    "manager": {
        "drystone_manager_leader_state", "drystone_manager_map_revision",
        "drystone_manager_pgs", "drystone_manager_pg_epoch_max", "drystone_manager_drives",
        "drystone_manager_tasks", "drystone_manager_drops_total",
        "drystone_manager_joins_total", "drystone_manager_promotions_total",
        "drystone_manager_refused_calls_total", "drystone_manager_server_sessions",
        "drystone_manager_client_sessions",
    },
    "server": {
        "drystone_server_drive_capacity_bytes", "drystone_server_drive_used_bytes",
        "drystone_server_drive_reserved_bytes", "drystone_server_engine_count",
        "drystone_server_drive_io_latency_seconds_count", "drystone_server_drive_segments",
    },
    "beacon": {"drystone_beacon_in_quorum", "drystone_beacon_lease_margin_seconds"},
    "block": {
        "drystone_block_volumes_attached", "drystone_block_engine_count",
        "drystone_volume_reads_total", "drystone_volume_writes_total",
        "drystone_volume_flushes_total", "drystone_volume_read_bytes_total",
        "drystone_volume_written_bytes_total", "drystone_volume_read_latency_seconds_count",
        "drystone_volume_write_latency_seconds_count",
    },
    "csi": {"drystone_csi_calls_total", "drystone_csi_call_seconds_count"},
}  # fmt: skip
"""Above 0 after a drive was dropped and came back, a volume was used, and calls were refused. What
is above 0 only while something is wrong is waited for in the test."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with temporary_cluster("metrics", "--servers", "3") as made:
        yield made


def addresses(cluster: Cluster) -> dict[str, str]:
    """Of each process of the cluster."""
    members = json.loads((cluster.folder / "cluster.json").read_text())
    found: dict[str, str] = members["endpoints"]["metrics"]
    return found


def process_of(name: str) -> str:
    if name.startswith(("manager", "block")):
        return name.partition("-")[0]
    return "beacon" if name.endswith("-beacon") else "server"


def scrape(address: str) -> tuple[set[str], dict[str, str], Samples]:
    """Families, their types, and every sample."""
    text = httpx.get(address, trust_env=False).text
    families = set(re.findall(r"^# HELP (drystone_\w+)", text, re.MULTILINE))
    kinds = dict(re.findall(r"^# TYPE (drystone_\w+) (\w+)", text, re.MULTILINE))
    found = re.findall(r"^(drystone_\w+(?:{.*})?) (\S+)$", text, re.MULTILINE)
    return families, kinds, {name: float(value) for name, value in found}


def above_zero(samples: Samples) -> set[str]:
    return {name.partition("{")[0] for name, value in samples.items() if value > 0}


def use(cluster: Cluster) -> Iterator[None]:
    """A volume with reads, writes and flushes; it stays attached meanwhile."""
    cluster.cli("volume", "create", "v", "--size", "64Mi")
    device = cluster.attach("v", "block-1", "export")
    nbd = Nbd(device["nbd_uri"])
    try:
        for number in range(64):
            nbd.write(number * BLOCK, bytes([number]) * BLOCK, fua=False)
        nbd.flush()
        assert nbd.read(BLOCK, BLOCK) == bytes([1]) * BLOCK
        yield
        nbd.write(0, bytes(BLOCK), fua=False)
        nbd.read(0, BLOCK)
    finally:
        nbd.close()


def refused(cluster: Cluster) -> None:
    """A stranger at both interfaces."""
    members = json.loads((cluster.folder / "cluster.json").read_text())["endpoints"]
    answer = httpx.get(f"{members['rest']}/v1/status", trust_env=False)
    assert answer.status_code == 401


def lacking(name: str, address: str) -> set[str]:
    """What a process should show by now and does not."""
    return MOVING[process_of(name)] - above_zero(scrape(address)[2])


def check(name: str, address: str, before: Samples) -> None:
    process = process_of(name)
    families, kinds, samples = scrape(address)
    shown = {family for family in families if not family.endswith("_created")}
    wanted = documented_metrics(process) | documented_metrics("all")
    if process == "manager":
        wanted.discard("drystone_manager_certificate_expiry_seconds")  # of TLS
    assert shown == wanted, name
    counters = {family for family, kind in kinds.items() if kind == "counter"}
    for sample, value in before.items():
        if sample.partition("{")[0] in counters and sample in samples:
            assert samples[sample] >= value, f"{sample} of {name} fell"


def test_every_process_serves_what_is_documented_and_it_moves(cluster):
    places = addresses(cluster)
    using = use(cluster)
    next(using)
    before = {name: scrape(address)[2] for name, address in places.items()}
    os.kill(cluster.pid("node-3-server"), signal.SIGKILL)

    def told() -> bool:
        return "drystone_manager_problems" in above_zero(scrape(places["manager-1"])[2])

    wait_for(told, "the problem in the metrics", DEADLINE_S, poll_s=0.2)
    cluster.cli("local", "start", "node-3")
    cluster.wait_in_sync()
    cluster.cli("drive", "scrub", "1", "--wait")
    refused(cluster)
    for name, address in places.items():
        # A server tells every 5 s, a block daemon shows what the read before asked for.
        wait_for(partial(lambda n, a: not lacking(n, a), name, address), name, DEADLINE_S, 0.5)
        # A process that was started anew counts anew.
        check(name, address, {} if name == "node-3" else before[name])
    with contextlib.suppress(StopIteration):
        next(using)


@contextlib.contextmanager
def csi_driver(cluster: Cluster, folder: Path) -> Iterator[tuple[str, str]]:
    """`drystone csi` with metrics: its socket, and where it serves them."""
    members = json.loads((cluster.folder / "cluster.json").read_text())
    socket, config = folder / "csi.sock", folder / "csi.toml"
    config.write_text(
        f'name = "n"\nsocket = "{socket}"\nrest_url = "{members["endpoints"]["rest"]}"\n'
        f'token_file = "{members["token_file"]}"\nmetrics_listen = "127.0.0.1:0"\n'
    )
    argv = [sys.executable, "-m", "drystone_cli", "csi", "--config", str(config)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            address = ""
            for line in process.stderr:
                said = json.loads(line) if line.startswith("{") else {}
                address = said.get("address", address)
                if said.get("event") == "csi_serving":
                    break
            yield str(socket), f"http://{address}/metrics"
        finally:
            process.terminate()
            process.wait(timeout=60)


def test_the_csi_driver_counts_calls_by_method_and_code(cluster, tmp_path):
    with csi_driver(cluster, tmp_path) as (socket, address):
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            csi_pb2_grpc.IdentityStub(channel).Probe(csi_pb2.ProbeRequest(), timeout=30)
            controller = csi_pb2_grpc.ControllerStub(channel)
            with pytest.raises(grpc.RpcError):
                controller.CreateVolume(csi_pb2.CreateVolumeRequest(), timeout=30)
        families, _, samples = scrape(address)
    shown = {family for family in families if not family.endswith("_created")}
    assert shown == documented_metrics("csi") | documented_metrics("all")
    assert samples['drystone_csi_calls_total{code="OK",method="Probe"}'] == 1
    assert samples['drystone_csi_call_seconds_count{method="CreateVolume"}'] == 1
    assert not MOVING["csi"] - above_zero(samples)
