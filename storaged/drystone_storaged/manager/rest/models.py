"""Request bodies: strict types, bounded, unknown fields refused so that a typo is not lost."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from drystone_storaged.cluster.maintenance import REASON_MAX
from drystone_storaged.cluster.records import Content, ContentState, FailureDomain, Rebalance

Text = Annotated[StrictStr, Field(min_length=1, max_length=128)]
Mode = Literal["rw", "ro"]


class Body(BaseModel):
    """Base of every body."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class PoolCreate(Body):
    """POST /v1/pools."""

    name: Text
    copies: StrictInt
    min_insync: StrictInt | None = None
    failure_domain: FailureDomain = FailureDomain.AUTO
    pg_count: StrictInt | None = None
    drive_class: Annotated[StrictStr, Field(max_length=63)] = ""


class PoolChange(Body):
    """PATCH /v1/pools/{pool}; what is not given stays. `out_time_s` 0 = never by itself."""

    min_insync: StrictInt | None = None
    out_time_s: StrictInt | None = None
    rebalance: Rebalance | None = None
    scrub_days: StrictInt | None = None


class VolumeCreate(Body):
    """POST /v1/volumes; `size` in bytes."""

    name: Text
    size: StrictInt
    pool: Text = "default"
    attributes: Annotated[dict[StrictStr, StrictStr], Field(max_length=16)] = {}


class VolumeResize(Body):
    """PATCH /v1/volumes/{volume}."""

    size: StrictInt


class Publish(Body):
    """POST /v1/volumes/{volume}/publish."""

    node: Text
    mode: Mode = "rw"


class Unpublish(Body):
    """POST /v1/volumes/{volume}/unpublish; no node = every node."""

    node: Text | None = None


class FenceBody(Body):
    """POST /v1/volumes/{volume}/fence; nothing = every attachment. `nonce` is 16 hex digits."""

    nonce: Annotated[StrictStr, Field(pattern="^[0-9a-f]{16}$")] | None = None
    generation: Annotated[StrictInt, Field(ge=0, lt=2**32)] | None = None
    node: Text | None = None


class ContentBody(Body):
    """A content state."""

    state: ContentState
    fs: Annotated[StrictStr, Field(max_length=64)] | None = None
    nonce: Annotated[StrictStr, Field(max_length=64)] | None = None

    def record(self) -> Content:
        """The stored form."""
        return Content(self.state, self.fs, self.nonce)


class ContentChange(Body):
    """POST /v1/volumes/{volume}/content."""

    expect: ContentBody
    to: ContentBody


class JoinTokenCreate(Body):
    """POST /v1/join-tokens; `name` binds the token to one node name."""

    role: Literal["server", "client", "beacon"]
    name: Text | None = None


class DriveAdd(Body):
    """POST /v1/nodes/{node}/drives; `device` is an id or a path of the node's devices."""

    device: Annotated[StrictStr, Field(min_length=1, max_length=256)]
    power_loss_protected: StrictBool = False


class MaintenanceBody(Body):
    """POST /v1/nodes/{node}/maintenance; `force` accepts less redundancy, never a last copy."""

    for_s: StrictInt
    reason: Annotated[StrictStr, Field(max_length=REASON_MAX)] = ""
    force: StrictBool = False


class MarkLost(Body):
    """POST /v1/pools/{pool}/mark-lost: data of that PG is given up."""

    pg: Annotated[StrictInt, Field(ge=0, lt=8192)]
    confirm: Literal[True]
    drive: Annotated[StrictInt, Field(ge=1)] | None = None
