"""StorageDisk: a device of a node.

Found ones are Available; only a person, or the cluster's autoAdopt policy, says In, and until
then nothing is written to them.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from drystone_operator.models.common import (
    Bytes,
    Count,
    DriveClass,
    Name,
    Quantity,
    ShortText,
    Status,
    Text,
    Uuid,
    Wanted,
)

DEVICE_PATTERN = r"^[A-Za-z0-9/][A-Za-z0-9._/@:+=,#-]*$"


class DiskState(StrEnum):
    """What a person wants of a disk."""

    AVAILABLE = "Available"
    IN = "In"
    EVACUATE = "Evacuate"
    RETEST = "Retest"
    REMOVE = "Remove"


class DiskPhase(StrEnum):
    """Where a disk is in its life; a refused one is left alone."""

    AVAILABLE = "Available"
    REFUSED = "Refused"
    INITIALISING = "Initialising"
    UP = "Up"
    DOWN = "Down"
    EVACUATING = "Evacuating"
    EVACUATED = "Evacuated"
    GONE = "Gone"
    MISSING = "Missing"


class StorageDiskSpec(Wanted):
    """What a person wants of a disk."""

    node_name: Name
    device: Annotated[str, Field(min_length=1, max_length=512, pattern=DEVICE_PATTERN)]
    state: DiskState = DiskState.AVAILABLE
    power_loss_protected: bool = False


class StorageDiskStatus(Status):
    """What is known of a disk; ``found`` says what is on it in words."""

    state: DiskPhase | None = None
    drive_id: Count | None = None
    drive_uuid: Uuid | None = Field(default=None, alias="driveUUID")
    path: ShortText | None = None
    serial: ShortText | None = None
    wwn: ShortText | None = None
    model: ShortText | None = None
    drive_class: DriveClass | None = None
    found: Text | None = None
    capacity: Quantity | None = None
    used: Quantity | None = None
    capacity_bytes: Bytes | None = None
    used_bytes: Bytes | None = None
    bad_blocks: Bytes | None = None
    resync_bytes_left: Bytes | None = None
    groups_left: Bytes | None = None
    strikes: Count | None = None
    retested_generation: Bytes | None = None
