"""StorageNode: a Kubernetes node that serves disks or uses volumes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import AwareDatetime, Field

from drystone_operator.models.common import (
    Bytes,
    Name,
    Observed,
    Quantity,
    ShortText,
    Status,
    Text,
    Wanted,
)


class RemovalPolicy(StrEnum):
    """What the deletion of the object means for the node's data."""

    RETAIN = "Retain"
    EVACUATE = "Evacuate"


class BeaconState(StrEnum):
    """Whether the beacon of this node is connected to a manager."""

    CONNECTED = "Connected"
    AWAY = "Away"


class QuorumVote(StrEnum):
    """Whether this node votes about the silence of others."""

    VOTER = "Voter"
    NON_VOTER = "NonVoter"


class Maintenance(Wanted):
    """A person works on the node: its absence moves no pods and raises no fail-over alarm."""

    until: AwareDatetime
    reason: Annotated[str, Field(min_length=1, max_length=256)]


class StorageNodeSpec(Wanted):
    """What a person wants of a node."""

    node_name: Name
    fault_set: Name | None = None
    maintenance: Maintenance | None = None
    removal_policy: RemovalPolicy = RemovalPolicy.RETAIN


class Failover(Observed):
    """How far the fail-over of this node's pods is; gone once the node is back and clean."""

    since: AwareDatetime
    step: ShortText
    fenced: bool = False
    tainted: bool = False
    pods_deleted: Annotated[int, Field(ge=0, le=100_000)] = 0


class StorageNodeStatus(Status):
    """What is known of a node."""

    beacon: BeaconState | None = None
    quorum_vote: QuorumVote | None = None
    addresses: Annotated[tuple[ShortText, ...], Field(max_length=16)] = ()
    server_version: ShortText | None = None
    block_version: ShortText | None = None
    capacity: Quantity | None = None
    used: Quantity | None = None
    capacity_bytes: Bytes | None = None
    used_bytes: Bytes | None = None
    out_of_sync_bytes: Bytes | None = None
    failover: Failover | None = None
    message: Text | None = None
