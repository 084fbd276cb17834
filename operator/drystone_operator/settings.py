"""Settings of the operator process."""

from __future__ import annotations

from pydantic import Field

from drystone_common.settings import Settings
from drystone_operator.names import DRIVER


class OperatorSettings(Settings):
    """From ``DRYSTONE_*`` variables and a file; the chart sets the images."""

    namespaces: tuple[str, ...] = ("drystone",)
    """Namespaces whose StorageClusters are looked after; nodes are seen cluster-wide."""

    image: str = ""
    """Image of Drystone where a StorageCluster names none."""

    etcd_image: str = ""
    """Image of the managed etcd; needed only where a StorageCluster asks for one."""

    provisioner_image: str = ""
    """Sidecar of the CSI controller."""

    attacher_image: str = ""
    """Sidecar of the CSI controller."""

    resizer_image: str = ""
    """Sidecar of the CSI controller."""

    snapshotter_image: str = ""
    """Sidecar of the CSI controller; empty = none, until the driver has snapshots."""

    registrar_image: str = ""
    """Sidecar of the node plugin."""

    livenessprobe_image: str = ""
    """Sidecar of both CSI pods; empty = none."""

    driver_name: str = DRIVER
    """Name of the CSI driver."""

    csi_service_account: str = "drystone-csi-controller"
    """Service account of the CSI controller and its sidecars; the chart makes it."""

    csi_node_service_account: str = "drystone-csi-node"
    """Service account of the node plugin."""

    node_service_account: str = "drystone-node"
    """Service account of server, beacon, block, manager and etcd: it may nothing."""

    manager_urls: tuple[str, ...] = ()
    """Addresses of REST in place of the managers' names, for an operator outside the cluster."""

    tls: bool = True
    """Make certificates and have REST and the control channel speak TLS."""

    beacon_pods: bool = True
    """Run the beacons as processes of their own; off = inside the servers, sharing their fate."""

    fuse_pods: bool = False
    """Run the FUSE processes in a DaemonSet of their own (`fuse-helper` of the image)."""

    resync_s: float = Field(default=30.0, gt=0)
    """Seconds between two looks at everything when nothing kicks: what a missed event costs."""

    failover_tick_s: float = Field(default=1.0, gt=0)
    """Seconds between two looks at nodes that are not well."""

    request_timeout_s: float = Field(default=15.0, gt=0)
    """Longest single request to Kubernetes."""

    rest_timeout_s: float = Field(default=30.0, gt=0)
    """Longest single request to a manager: a fence that has to be proven takes 15 s."""

    healthy_s: float = Field(default=180.0, gt=0)
    """Seconds without a finished look after which `/healthz` says no: six missed resyncs."""

    health_listen: str = "0.0.0.0:8080"
    """`host:port` of `/healthz` and `/metrics`; empty = none."""

    log_level: str = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
