"""Drystone as a system under test: three servers on files, one volume as an NBD export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from tests.e2e.lib.cluster import Cluster, temporary_cluster

NAME: Final = "drystone"
VOLUME: Final = "bench"
CONSUMER: Final = "block-1"


class Ours:
    """A running cluster with an attached volume."""

    name = NAME

    def __init__(self, cluster: Cluster, size: int) -> None:
        self.cluster = cluster
        self.size = size
        cluster.cli("volume", "create", VOLUME, "--size", str(size))
        self.uri = cluster.attach(VOLUME, CONSUMER, "export")["nbd_uri"]

    def target(self) -> dict[str, str]:
        """See ``System``."""
        return {"ioengine": "nbd", "uri": self.uri}

    def server_pids(self) -> list[int]:
        """See ``System``."""
        return self.cluster.server_pids()

    def client_pids(self) -> list[int]:
        """See ``System``."""
        return [self.cluster.pid(CONSUMER)]


@contextmanager
def our_cluster(size: int) -> Iterator[Ours]:
    """A cluster with room for the image, its rewrites and the volumes of the other blocks."""
    drive = max(8 << 30, size * 4)
    with temporary_cluster("bench", "--servers", "3", "--drive-size", str(drive)) as cluster:
        yield Ours(cluster, size)
