"""What the custom resources share: bases, bounded types, conditions, sizes."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

from drystone_common.errors import InvalidArgumentError
from drystone_common.units import parse_size

API_GROUP: Final = "drystone.io"
API_VERSION: Final = "v1alpha1"

NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
QUANTITY_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?([kMGTPE]|[KMGTPE]i)?$"
CPU_PATTERN: Final = r"^[0-9]+(\.[0-9]+)?m?$"
LABEL_VALUE_PATTERN: Final = r"^([A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?)?$"
LABEL_KEY_PATTERN: Final = (
    r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$"
)
PATH_PATTERN: Final = r"^/[A-Za-z0-9._/@:+-]*$"
REASON_PATTERN: Final = r"^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"
UUID_PATTERN: Final = r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$"

INT64_MAX: Final = 2**63 - 1


class Wanted(BaseModel):
    """Base of what a person writes: a name that is not known is a typo, and refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, populate_by_name=True
    )


class Observed(BaseModel):
    """Base of what the operator writes: what another version wrote besides is passed over."""

    model_config = ConfigDict(
        extra="ignore", frozen=True, alias_generator=to_camel, populate_by_name=True
    )


def _checked_quantity(value: int | str) -> int | str:
    text = str(value)
    if re.fullmatch(QUANTITY_PATTERN, text) is None:
        raise ValueError("write a number and a unit, such as 100Gi")
    try:
        parse_size(text)
    except InvalidArgumentError as error:
        raise ValueError(str(error)) from error
    return value


Quantity = Annotated[
    int | str,
    AfterValidator(_checked_quantity),
    WithJsonSchema(
        {"x-kubernetes-int-or-string": True, "pattern": QUANTITY_PATTERN, "maxLength": 32}
    ),
]
"""A size as Kubernetes writes it; ``quantity_bytes`` gives the bytes."""

Cpu = Annotated[
    int | str,
    AfterValidator(lambda value: _matched(value, CPU_PATTERN, "write 2 or 500m")),
    WithJsonSchema({"x-kubernetes-int-or-string": True, "pattern": CPU_PATTERN, "maxLength": 32}),
]
"""Processor time as Kubernetes writes it."""

DnsName = Annotated[str, Field(min_length=1, max_length=253, pattern=NAME_PATTERN)]
"""Name of a Kubernetes object."""

Name = Annotated[str, Field(min_length=1, max_length=63, pattern=NAME_PATTERN)]
"""Name that the engine keeps too, so it is bounded by the engine's rule."""

LabelKey = Annotated[str, Field(min_length=1, max_length=317, pattern=LABEL_KEY_PATTERN)]
LabelValue = Annotated[str, Field(max_length=63, pattern=LABEL_VALUE_PATTERN)]
HostPath = Annotated[str, Field(min_length=2, max_length=255, pattern=PATH_PATTERN)]
Uuid = Annotated[str, Field(max_length=36, pattern=UUID_PATTERN)]
Text = Annotated[str, Field(max_length=1024)]
ShortText = Annotated[str, Field(max_length=253)]
Bytes = Annotated[int, Field(ge=0, le=INT64_MAX)]
"""A number of bytes."""
Count = Annotated[int, Field(ge=0, le=2**31 - 1)]
Port = Annotated[int, Field(ge=1, le=65535)]


def _matched(value: int | str, pattern: str, hint: str) -> int | str:
    if re.fullmatch(pattern, str(value)) is None:
        raise ValueError(hint)
    return value


def quantity_bytes(value: int | str) -> int:
    """Read a checked quantity as bytes."""
    return parse_size(str(value))


def rounded_quantity(size: int) -> str:
    """Write bytes for a printer column, such as ``1.8Ti``: valid as a quantity, never exact."""
    value = float(size)
    for unit in ("", "Ki", "Mi", "Gi", "Ti", "Pi"):
        # 1023.95 would be printed as 1024.0 of the smaller unit.
        if value < 1023.95:  # noqa: PLR2004 - explained above
            return f"{size}" if unit == "" else f"{value:.1f}".removesuffix(".0") + unit
        value /= 1024
    return f"{value:.1f}".removesuffix(".0") + "Ei"


class ConditionStatus(StrEnum):
    """Whether a condition holds; Unknown is an answer of its own."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Observed):
    """The shape of metav1.Condition; ``last_transition_time`` moves only with ``status``."""

    type: Annotated[str, Field(min_length=1, max_length=63, pattern=REASON_PATTERN)]
    status: ConditionStatus
    reason: Annotated[str, Field(min_length=1, max_length=128, pattern=REASON_PATTERN)]
    message: Annotated[str, Field(max_length=4096)] = ""
    last_transition_time: AwareDatetime
    observed_generation: Annotated[int, Field(ge=0, le=INT64_MAX)] | None = None


Conditions = Annotated[tuple[Condition, ...], Field(max_length=16)]


class Status(Observed):
    """What every kind's status has."""

    observed_generation: Annotated[int, Field(ge=0, le=INT64_MAX)] | None = None
    conditions: Conditions = ()

    def condition(self, kind: str) -> Condition | None:
        """Find the condition of a type."""
        return next((one for one in self.conditions if one.type == kind), None)


class DriveClass(StrEnum):
    """What a device is made of, as discovered."""

    NVME = "nvme"
    SSD = "ssd"
    HDD = "hdd"
    FILE = "file"


class FailureDomain(StrEnum):
    """What two copies never share; auto takes the widest that there is enough of."""

    AUTO = "auto"
    FAULT_SET = "fault-set"
    NODE = "node"
    DRIVE = "drive"


class Switch(StrEnum):
    """On or off, with room for a third answer later."""

    ENABLED = "Enabled"
    DISABLED = "Disabled"


class SecretRef(Wanted):
    """A Secret of the StorageCluster's namespace."""

    name: DnsName
