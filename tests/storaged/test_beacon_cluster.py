"""Beacons as real processes beside real servers: killed, frozen and restarted, each alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from drystone_storaged.local import members
from drystone_storaged.local.cluster import LocalCluster
from drystone_storaged.local.members import Wanted
from tests.storaged.test_local_cluster import DEADLINE_S, Cluster, copy

pytestmark = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(shutil.which("nbdcopy") is None, reason="nbdcopy is missing: libnbd-bin"),
]

SIZE = 8 << 20
STILL = "its beacon says that its server is gone or stands still"
SILENT = "silent to a majority"


class World(Cluster):
    """A cluster that is watched from this process: a program for every look takes too long."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.local = LocalCluster(folder)

    def up(self, **wanted: int) -> None:
        self.local.up(Wanted(drive_size=4 << 30, **wanted))

    def status(self) -> dict[str, Any]:
        with self.local.rest(members.load(self.local.layout)) as rest:
            return rest.get("/v1/status")

    def wait(self, condition, what: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < end, f"waited in vain: {what}\n{self.status()}"
            time.sleep(0.2)

    def are_down(self, *nodes: str) -> bool:
        drives = self.status()["drives"]
        return {d["node"] for d in drives if d["state"] != "up"} == set(nodes)

    def wait_in_sync(self) -> None:
        def in_sync() -> bool:
            status = self.status()
            return status["pgs"]["in_sync"] == status["pgs"]["total"] and self.are_down()

        self.wait(in_sync, "everything is in sync")

    def reasons(self) -> list[str]:
        """Why nodes were dropped without their kernel's word."""
        dropped = (e for e in self.log("manager-1") if e["event"] == "dropping a silent node")
        return [e["reason"] for e in dropped]

    def states(self) -> dict[str, str]:
        return {p["name"]: p["state"] for p in self.local.status()["processes"]}


@pytest.fixture
def world(tmp_path):
    found = World(tmp_path / "c")
    try:
        yield found
    finally:
        found.clean()


def serving(world, source) -> str:
    """A healthy cluster with a volume that holds ``source``; gives the volume's address."""
    source.write_bytes(os.urandom(SIZE))
    world.up()
    world("volume", "create", "db", "--size", str(SIZE))
    uri = world.json("volume", "attach", "db", "--as", "export")["nbd_uri"]
    copy("--flush", str(source), uri)
    return uri


def test_reads_go_on_with_two_of_three_servers_killed(world, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    uri = serving(world, source)
    for node in ("node-1", "node-2"):
        world.local.stop(node, "KILL", None)
    world.wait(lambda: world.are_down("node-1", "node-2"), "two servers are dropped")
    assert world.states()["node-1-beacon"] == "running"
    dead_since = time.monotonic()
    # For longer than any lease from before the deaths.
    while time.monotonic() - dead_since < 4:
        copy(uri, str(back))
        assert back.read_bytes() == source.read_bytes()
    assert world.are_down("node-1", "node-2")
    # Writes wait for a second copy and then go on; none fails.
    source.write_bytes(os.urandom(SIZE))
    with subprocess.Popen(["nbdcopy", "--flush", str(source), uri]) as writer:
        world.local.start("node-1")
        assert writer.wait(timeout=DEADLINE_S) == 0
    world.local.start("node-2")
    world.wait_in_sync()
    copy(uri, str(back))
    assert back.read_bytes() == source.read_bytes()
    assert SILENT not in world.reasons(), "their beacons live"


def test_a_frozen_server_is_dropped_by_its_beacons_word_and_comes_back(world, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    uri = serving(world, source)
    source.write_bytes(os.urandom(SIZE))
    world.local.stop("node-1", "STOP", None)
    # Only who asks a frozen server notices: a client that writes.
    copy("--flush", str(source), uri)
    assert world.are_down("node-1")
    assert STILL in world.reasons(), "its beacon proved it"
    world.local.stop("node-1", "CONT", None)
    world.wait_in_sync()
    copy(uri, str(back))
    assert back.read_bytes() == source.read_bytes()


def test_a_killed_and_a_frozen_beacon_make_their_node_silent_until_they_are_back(world, tmp_path):
    source, back = tmp_path / "source", tmp_path / "back"
    uri = serving(world, source)
    world.local.stop("node-2", "KILL", "beacon")
    world.wait(lambda: world.are_down("node-2"), "the silent node is dropped")
    assert world.states()["node-2-server"] == "running"
    copy(uri, str(back))
    assert back.read_bytes() == source.read_bytes()
    world.local.start("node-2")
    world.wait_in_sync()

    world.local.stop("node-3", "STOP", "beacon")
    world.wait(lambda: world.are_down("node-3"), "the silent node is dropped")
    world.local.stop("node-3", "CONT", "beacon")
    world.wait_in_sync()
    assert SILENT in world.reasons()
    assert STILL not in world.reasons()
    copy(uri, str(back))
    assert back.read_bytes() == source.read_bytes()


def test_a_second_beacon_or_server_of_a_node_is_refused(world):
    world.up(servers=1, consumers=0)
    for kind in ("beacon", "server"):
        config = world.folder / "conf" / f"node-1-{kind}.toml"
        result = subprocess.run(
            [sys.executable, "-m", "drystone_cli", kind, "--config", str(config)],
            env=world.env, text=True, capture_output=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert result.returncode != 0
        assert f"another {kind} uses" in result.stderr
    assert set(world.states().values()) == {"running"}
