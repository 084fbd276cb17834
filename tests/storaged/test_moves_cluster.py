"""Moves of a real cluster under load: a drive is emptied, filled again, and lost for good."""

from __future__ import annotations

import pytest

from tests.e2e.lib.cluster import Cluster, temporary_cluster
from tests.e2e.lib.waits import wait_for
from tests.e2e.nemesis.check import check
from tests.e2e.nemesis.client import Client
from tests.e2e.nemesis.collect import collect, compact
from tests.e2e.nemesis.mix import Task

UP = ("--servers", "4", "--drive-size", "2Gi")
WRITES = 100
WAIT_S = 120.0  # some dozens of groups, two at a time, on a host that is busy with other tests


def judged(client, folder) -> None:
    """Read everything and judge it, then make it the base of what follows."""
    client.checkpoint()
    found = collect(folder)
    verdict = check(found.history)
    assert verdict.clean, verdict.words("v")
    assert verdict.operations > 0
    compact(found)
    client.go()


def drive(cluster: Cluster, number: int) -> dict:
    return cluster.rest.get(f"/v1/drives/{number}")


def settled(cluster: Cluster) -> bool:
    """Every group has three copies and nothing is on its way."""
    moves = cluster.rest.get("/v1/pools/default")["moves"]
    return moves == {"left": 0, "running": 0} and cluster.in_sync()


@pytest.mark.timeout(480)  # three rounds of moves on slow disks
def test_no_block_forgets_or_forks_while_drives_are_emptied_filled_and_re_created(tmp_path):
    folder = tmp_path / "journals"
    folder.mkdir()
    with temporary_cluster("moves", *UP) as cluster:
        cluster.cli("volume", "create", "v", "--size", "64Mi")
        attached = cluster.attach("v", "block-1", "export")
        task = Task(str(folder), attached["nbd_uri"], seed=3, volume=1, first_client=1,
                    generation=attached["generation"])  # fmt: skip
        with Client(task) as client:
            client.go()
            client.goes_on(WRITES, WAIT_S)
            cluster.cli("drive", "evacuate", "2", "--wait", timeout_s=WAIT_S)
            assert drive(cluster, 2)["held"] == 0
            assert drive(cluster, 2)["state"] == "up"
            # What it gave away goes as well.
            wait_for(lambda: drive(cluster, 2)["used"] == 0, "an empty drive 2", WAIT_S)
            client.goes_on(WRITES, WAIT_S)
            judged(client, folder)

            # It is wanted again: it gets its share of everything back, as a new drive does.
            cluster.cli("drive", "evacuate", "2", "--cancel")
            wait_for(
                lambda: drive(cluster, 2)["pgs"]["in_sync"] >= 47 and settled(cluster),
                "a quarter of all copies on drive 2", WAIT_S,
            )  # fmt: skip
            client.goes_on(WRITES, WAIT_S)
            judged(client, folder)

            cluster.cli("pool", "set", "default", "--out-time", "10s")
            cluster.cli("local", "stop", "node-3", "--signal", "KILL")
            (lost,) = cluster.rest.get("/v1/nodes/node-3")["drives"]
            wait_for(lambda: drive(cluster, lost)["held"] == 0 and cluster.in_sync(),
                     "three copies without node-3", WAIT_S)  # fmt: skip
            client.goes_on(WRITES, WAIT_S)
            judged(client, folder)
