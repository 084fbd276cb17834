"""Everything killed at once: what was acknowledged is there when the cluster is up again."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.lib.cluster import temporary_cluster
from tests.e2e.lib.writer import Region, Writer, verify

UP = ("--servers", "3", "--drive-size", "2Gi")


@pytest.mark.timeout(300)  # two starts of a cluster on a slow disk
def test_after_kill_9_of_everything_at_once_every_acknowledged_write_is_there():
    with temporary_cluster("test", *UP) as cluster:
        cluster.cli("volume", "create", "v", "--size", "64Mi")
        uri = cluster.attach("v", "block-1", "export")["nbd_uri"]
        region = Region(uri, 0, 1024, 5)
        writer = Writer(region, threads=4)
        writer.goes_on(2000, 60)
        for pid in cluster.pids().values():
            os.kill(pid, signal.SIGKILL)
        cluster.cli("local", "up", *UP)
        cluster.wait_in_sync()
        # The writer's connections come back with the daemon, and its open writes are sent again.
        writer.goes_on(200, 60)
        seen = writer.stop()
        assert seen.errors == 0
        assert verify(region, seen) > 0
