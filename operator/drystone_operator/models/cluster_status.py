"""StorageCluster's status."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from drystone_operator.models.common import (
    Bytes,
    Count,
    Observed,
    Quantity,
    ShortText,
    Status,
    Text,
    Uuid,
)


class Severity(StrEnum):
    """The manager's verdict on the whole."""

    OK = "ok"
    WARNING = "warning"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


class Health(Observed):
    """What `drystone status` says."""

    severity: Severity = Severity.UNKNOWN
    issues: Annotated[tuple[Text, ...], Field(max_length=32)] = ()


class NodeCounts(Observed):
    """Storage nodes, and those that are connected."""

    total: Count = 0
    ready: Count = 0


class DiskCounts(Observed):
    """Disks that are known, in use and up, and free to take."""

    total: Count = 0
    up: Count = 0
    available: Count = 0


class ComponentVersion(Observed):
    """How many pods of a component there are, and of which version."""

    component: Annotated[str, Field(min_length=1, max_length=63)]
    version: ShortText = ""
    desired: Count = 0
    ready: Count = 0
    updated: Count = 0


class StorageClusterStatus(Status):
    """What is known of a cluster."""

    cluster_uuid: Uuid | None = Field(default=None, alias="clusterUUID")
    endpoint: Annotated[str, Field(max_length=512)] | None = None
    health: Health | None = None
    nodes: NodeCounts | None = None
    disks: DiskCounts | None = None
    volumes: Count | None = None
    capacity: Quantity | None = None
    used: Quantity | None = None
    capacity_bytes: Bytes | None = None
    used_bytes: Bytes | None = None
    components: Annotated[tuple[ComponentVersion, ...], Field(max_length=16)] = ()
