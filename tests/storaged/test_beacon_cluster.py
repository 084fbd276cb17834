"""Beacons as real processes beside real servers: killed, frozen and restarted, each alone."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.storaged.test_local_cluster import DEADLINE_S, Cluster, copy

pytestmark = [
    pytest.mark.timeout(420),
    pytest.mark.skipif(shutil.which("nbdcopy") is None, reason="nbdcopy is missing: libnbd-bin"),
]

SIZE = 32 << 20
STILL = "its server stands still, says its beacon"
SILENT = "silent to a majority"


@pytest.fixture
def cluster(tmp_path):
    found = Cluster(tmp_path / "c")
    try:
        yield found
    finally:
        found.clean()


def serving(cluster, source) -> str:
    """A healthy cluster with a volume that holds ``source``; gives the volume's address."""
    source.write_bytes(os.urandom(SIZE))
    cluster("local", "up", "--drive-size", "4Gi")
    cluster("volume", "create", "db", "--size", str(SIZE))
    uri = cluster.json("volume", "attach", "db", "--as", "export")["nbd_uri"]
    copy("--flush", str(source), uri)
    return uri


def down(cluster, *nodes: str) -> bool:
    drives = cluster.json("status")["drives"]
    return {d["node"] for d in drives if d["state"] != "up"} == set(nodes)


def reasons(cluster) -> list[str]:
    dropped = (e for e in cluster.log("manager-1") if e["event"] == "dropping a silent node")
    return [e["reason"] for e in dropped]


def processes(cluster) -> dict[str, str]:
    return {p["name"]: p["state"] for p in cluster.json("local", "status")["processes"]}


def test_reads_go_on_with_two_of_three_servers_killed(cluster, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    uri = serving(cluster, source)
    for node in ("node-1", "node-2"):
        cluster("local", "stop", node, "--signal", "KILL")
    cluster.until(lambda: down(cluster, "node-1", "node-2"), "two servers are dropped")
    assert processes(cluster)["node-1-beacon"] == "running"
    # Several times: no lease from before the deaths lasts as long as one of these commands.
    for _ in range(3):
        copy(uri, str(back))
        assert back.read_bytes() == source.read_bytes()
        assert down(cluster, "node-1", "node-2")
    # Writes wait for a second copy and then go on; none fails.
    source.write_bytes(os.urandom(SIZE))
    with subprocess.Popen(["nbdcopy", "--flush", str(source), uri]) as writer:
        cluster("local", "start", "node-1")
        assert writer.wait(timeout=DEADLINE_S) == 0
    cluster("local", "start", "node-2")
    cluster.until(cluster.in_sync, "all placement groups in sync")
    copy(uri, str(back))
    assert back.read_bytes() == source.read_bytes()
    assert not reasons(cluster), "nobody was silent, nobody stood still: they were dead"


def test_a_frozen_server_a_killed_and_a_frozen_beacon_are_told_apart_and_come_back(
    cluster, tmp_path
):
    source, back = tmp_path / "source", tmp_path / "back"
    uri = serving(cluster, source)

    def frozen_server() -> None:
        # Only who asks a frozen server notices: a client that writes.
        source.write_bytes(os.urandom(SIZE))
        with subprocess.Popen(["nbdcopy", "--flush", str(source), uri]) as writer:
            cluster("local", "stop", "node-1", "--signal", "STOP")
            cluster.until(lambda: down(cluster, "node-1"), "the frozen server is dropped")
            assert writer.wait(timeout=DEADLINE_S) == 0

    frozen_server()
    assert reasons(cluster) == [STILL], "its beacon proved it"
    cluster("local", "stop", "node-1", "--signal", "CONT")
    cluster.until(cluster.in_sync, "the thawed server is in sync")

    cluster("local", "stop", "node-2", "--process", "beacon", "--signal", "KILL")
    cluster.until(lambda: down(cluster, "node-2"), "the silent node is dropped")
    assert processes(cluster)["node-2-server"] == "running"
    copy(uri, str(back))
    assert back.read_bytes() == source.read_bytes()
    cluster("local", "start", "node-2")
    cluster.until(cluster.in_sync, "its drives are back")

    cluster("local", "stop", "node-3", "--process", "beacon", "--signal", "STOP")
    cluster.until(lambda: down(cluster, "node-3"), "the silent node is dropped")
    copy(uri, str(back))
    cluster("local", "stop", "node-3", "--process", "beacon", "--signal", "CONT")
    cluster.until(cluster.in_sync, "its drives are back")
    assert reasons(cluster) == [STILL, SILENT, SILENT]
    copy(uri, str(back))
    assert back.read_bytes() == source.read_bytes()


def test_a_second_beacon_or_server_of_a_node_is_refused(cluster):
    cluster("local", "up", "--drive-size", "4Gi", "--servers", "1", "--consumers", "0")
    for kind in ("beacon", "server"):
        config = cluster.folder / "conf" / f"node-1-{kind}.toml"
        result = cluster(kind, "--config", str(config), check=False)
        assert result.returncode != 0
        assert f"another {kind} uses" in result.stderr
    assert set(processes(cluster).values()) == {"running"}
