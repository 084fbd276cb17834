"""StorageCluster: everything of one Drystone cluster; there is one in a namespace."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from drystone_operator.models.cluster_parts import (
    CsiSpec,
    DeletionPolicy,
    DiskSpec,
    ExternalSpec,
    FailoverSpec,
    ImageSpec,
    MetadataSpec,
    MetadataType,
    PlacementSpec,
    StatefulSize,
    UpgradeSpec,
)
from drystone_operator.models.common import (
    HostPath,
    LabelKey,
    LabelValue,
    Name,
    Port,
    SecretRef,
    Wanted,
)
from drystone_operator.models.pool import PoolShape

DRIVE_PORTS = 20  # one port per disk of a node, from ports.drives on
PORT_MAX = 65535
METRICS_PORTS = 5  # manager, server, beacon, block, fuse


class ManagersSpec(StatefulSize):
    """The manager processes; where absent, 3 with etcd and 1 with SQLite."""

    replicas: Literal[1, 3]


class Ports(Wanted):
    """Ports on the nodes; drives take DRIVE_PORTS from theirs on, metrics METRICS_PORTS."""

    rest: Port = 8460
    control: Port = 8461
    drives: Port = 8470
    beacon: Port = 8480
    metrics: Port = 8490

    @model_validator(mode="after")
    def _apart(self) -> Self:
        drives = range(self.drives, self.drives + DRIVE_PORTS)
        metrics = range(self.metrics, self.metrics + METRICS_PORTS)
        if max(drives.stop, metrics.stop) > PORT_MAX + 1:
            raise ValueError("drives takes 20 ports, metrics five; they end at 65535")
        if self.rest == self.control:
            raise ValueError("rest and control must differ")
        if any(port in drives or port in metrics for port in (self.rest, self.control)):
            raise ValueError("rest and control must lie outside of the ports of drives and metrics")
        if drives.start < metrics.stop and metrics.start < drives.stop:
            raise ValueError("the ports of drives and those of metrics must not overlap")
        return self


class NetworkSpec(Wanted):
    """How the processes reach each other."""

    ports: Ports = Ports()


class NodesSpec(Wanted):
    """Which Kubernetes nodes serve disks; where absent, none is left out."""

    selector: Annotated[dict[LabelKey, LabelValue], Field(max_length=16)] = {}  # noqa: RUF012 - pydantic copies it


class PathsSpec(Wanted):
    """Folders on the nodes, below which the cluster's own lie."""

    state: HostPath = "/var/lib/drystone"
    run: HostPath = "/run/drystone"


class DefaultPool(PoolShape):
    """A pool made as soon as there are drives for it, and then kept as a StoragePool."""

    name: Name = "default"


class StorageClusterSpec(Wanted):
    """What a person wants of a cluster."""

    image: ImageSpec = ImageSpec()
    metadata: MetadataSpec | None = None
    managers: ManagersSpec | None = None
    external: ExternalSpec | None = None
    fault_set_key: LabelKey = "topology.kubernetes.io/zone"
    nodes: NodesSpec = NodesSpec()
    disks: DiskSpec | None = None
    network: NetworkSpec = NetworkSpec()
    paths: PathsSpec = PathsSpec()
    placement: PlacementSpec = PlacementSpec()
    csi: CsiSpec = CsiSpec()
    upgrade: UpgradeSpec = UpgradeSpec()
    failover: FailoverSpec = FailoverSpec()
    deletion_policy: DeletionPolicy = DeletionPolicy.RETAIN
    default_pool: DefaultPool | None = None

    @model_validator(mode="after")
    def _here_or_elsewhere(self) -> Self:
        if (self.external is None) == (self.metadata is None):
            raise ValueError("give exactly one of metadata (here) and external (elsewhere)")
        here = (self.managers, self.disks, self.default_pool)
        if self.external is not None and any(part is not None for part in here):
            raise ValueError("managers, disks and defaultPool do not belong to external")
        if self.manager_replicas > 1 and self.is_sqlite:
            raise ValueError("metadata of type sqlite allows one manager only; use etcd for three")
        return self

    @property
    def is_external(self) -> bool:
        """Whether only the consuming side runs here."""
        return self.external is not None

    @property
    def is_sqlite(self) -> bool:
        """Whether the one manager keeps the metadata itself."""
        return self.metadata is not None and self.metadata.type is MetadataType.SQLITE

    @property
    def manager_replicas(self) -> int:
        """How many managers: as written, else 3 on etcd, 1 on SQLite, 0 with external."""
        if self.is_external:
            return 0
        if self.managers is not None:
            return self.managers.replicas
        return 1 if self.is_sqlite else 3

    @property
    def disk_rules(self) -> DiskSpec:
        """Which devices are looked at, with what holds where nothing is written."""
        return self.disks or DiskSpec()

    @property
    def uses_fuse(self) -> bool:
        """Whether block daemons may make devices by FUSE."""
        return self.csi.attacher in {"auto", "fuse"}

    @property
    def secrets(self) -> tuple[SecretRef, ...]:
        """Every Secret a person names: the operator waits for them."""
        return (*self._etcd_secrets(), *self._external_secrets())

    def _etcd_secrets(self) -> tuple[SecretRef, ...]:
        etcd = self.metadata.etcd if self.metadata else None
        refs = (etcd.tls_secret_ref, etcd.password_secret_ref) if etcd else ()
        return tuple(ref for ref in refs if ref is not None)

    def _external_secrets(self) -> tuple[SecretRef, ...]:
        if self.external is None:
            return ()
        refs = (self.external.token_secret_ref, self.external.ca_secret_ref)
        return tuple(ref for ref in refs if ref is not None)
