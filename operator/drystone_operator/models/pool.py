"""StoragePool: how many copies, how far apart. The object's name is the pool's name."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from drystone_operator.models.common import (
    Bytes,
    Count,
    DriveClass,
    FailureDomain,
    Observed,
    Quantity,
    Status,
    Wanted,
)

COPIES_MAX = 4  # a placement group has at most 8 members, and each copy may be joined by a new one
Copies = Annotated[int, Field(ge=1, le=COPIES_MAX)]


class PoolShape(Wanted):
    """What decides where data lies; also the body of a cluster's default pool."""

    copies: Copies
    min_insync: Copies | None = None
    failure_domain: FailureDomain = FailureDomain.AUTO
    drive_class: DriveClass | None = None

    @model_validator(mode="after")
    def _enough_copies(self) -> Self:
        if self.min_insync is not None and self.min_insync > self.copies:
            raise ValueError("minInsync must not be greater than copies")
        return self


class StoragePoolSpec(PoolShape):
    """What a person wants of a pool."""


class PlacementGroups(Observed):
    """How a pool's placement groups do; stalled and unavailable ones are degraded too."""

    total: Count = 0
    in_sync: Count = 0
    degraded: Count = 0
    resyncing: Count = 0
    stalled: Count = 0
    unavailable: Count = 0


class StoragePoolStatus(Status):
    """What is known of a pool; bytes are those of volumes, the copies' are off already."""

    pool_id: Count | None = None
    capacity: Quantity | None = None
    used: Quantity | None = None
    capacity_bytes: Bytes | None = None
    used_bytes: Bytes | None = None
    available_bytes: Bytes | None = None
    volumes: Count | None = None
    placement_groups: PlacementGroups | None = None
