"""Topology: a volume is reachable from every node of its cluster, and from nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from drystone_common.errors import NoSpaceError
from drystone_csi.proto import csi_pb2

KEY: Final = "topology.drystone.io/cluster"


def segment(cluster_uuid: str) -> csi_pb2.Topology:
    """The topology of every volume and node of a cluster."""
    return csi_pb2.Topology(segments={KEY: cluster_uuid})


def within(topology: csi_pb2.Topology, cluster_uuid: str) -> bool:
    """Say whether the cluster's volumes are reachable there; other drivers' keys do not matter."""
    return topology.segments.get(KEY, cluster_uuid) == cluster_uuid


def check(wanted: csi_pb2.TopologyRequirement, cluster_uuid: str) -> None:
    """Refuse a volume that must be reachable only from elsewhere."""
    requisite: Iterable[csi_pb2.Topology] = wanted.requisite
    if wanted.requisite and not any(within(item, cluster_uuid) for item in requisite):
        raise NoSpaceError(
            f"no requested topology is that of cluster {cluster_uuid}",
            code="topology_unreachable",
        )
