"""Names and ids: their one spelling, and the check at every edge.

Rules: people's names match one pattern; ids are opaque, never reused and never joined into paths.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import uuid
from dataclasses import dataclass
from typing import Final, NewType

from drystone_common.errors import InvalidArgumentError

Name = NewType("Name", str)
"""A checked name of a pool, volume, node or snapshot."""

VolumeId = NewType("VolumeId", int)
"""64-bit id from the metadata store, never reused."""

ClientId = NewType("ClientId", str)
"""32 hex digits: the random 128-bit identity of one `block` daemon."""

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_HEX64: Final = re.compile(r"[0-9a-f]{16}")
_HEX128: Final = re.compile(r"[0-9a-f]{32}")
_UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

ID_MAX: Final = 2**64 - 1
CSI_NAME_BYTES_MAX: Final = 128  # the CSI specification's limit for a name


def parse_name(text: str, what: str = "name") -> Name:
    """Check a name that a person gave; ``what`` appears in the error ("pool name")."""
    if _NAME.fullmatch(text) is None:
        raise InvalidArgumentError(
            f"{what} {_shown(text)} is not valid",
            code="invalid_name",
            hint="use 1 to 63 of a-z 0-9 - . beginning and ending with a letter or digit",
        )
    return Name(text)


def new_uuid() -> uuid.UUID:
    """Make a random UUID for a cluster, drive, node or attachment."""
    return uuid.uuid4()


def parse_uuid(text: str, what: str = "UUID") -> uuid.UUID:
    """Accept only the canonical lower-case form, so that one UUID has one spelling."""
    if _UUID.fullmatch(text) is None:
        raise InvalidArgumentError(
            f"{what} {_shown(text)} is not a UUID",
            code="invalid_id",
            hint="write it as 8-4-4-4-12 lower-case hexadecimal digits",
        )
    return uuid.UUID(text)


def new_client_id() -> ClientId:
    """Make the random 128-bit identity that a `block` daemon persists at its first start."""
    return ClientId(secrets.token_hex(16))


def parse_client_id(text: str) -> ClientId:
    """Check a client id read from a file or a request."""
    if _HEX128.fullmatch(text) is None:
        raise InvalidArgumentError(
            f"client id {_shown(text)} is not valid",
            code="invalid_id",
            hint="a client id is 32 lower-case hexadecimal digits",
        )
    return ClientId(text)


def format_id(value: int) -> str:
    """16 hex digits, the spelling of every 64-bit id outside the engine."""
    if not 0 <= value <= ID_MAX:
        raise InvalidArgumentError(f"{value} is not a 64-bit id", code="invalid_id")
    return f"{value:016x}"


def parse_id(text: str, what: str = "id") -> int:
    """Read back exactly what ``format_id`` writes."""
    if _HEX64.fullmatch(text) is None:
        raise InvalidArgumentError(
            f"{what} {_shown(text)} is not valid",
            code="invalid_id",
            hint="an id is 16 lower-case hexadecimal digits",
        )
    return int(text, 16)


@dataclass(frozen=True, slots=True)
class CsiVolumeId:
    """`<cluster uuid>/<16 hex digits>`: what Kubernetes stores and sends back for ever."""

    cluster: uuid.UUID
    volume: VolumeId

    def __str__(self) -> str:
        """Write the text form; ``parse`` reads it."""
        return f"{self.cluster}/{format_id(self.volume)}"

    @classmethod
    def parse(cls, text: str) -> CsiVolumeId:
        """Check and split an id from a CSI request or from the chart's values."""
        cluster, separator, volume = text.partition("/")
        if not separator or not _UUID.fullmatch(cluster) or not _HEX64.fullmatch(volume):
            raise InvalidArgumentError(
                f"volume id {_shown(text)} is not one of Drystone's",
                code="invalid_volume_id",
                hint="it must be <cluster uuid>/<16 hexadecimal digits>",
            )
        return cls(uuid.UUID(cluster), VolumeId(int(volume, 16)))


def csi_engine_name(csi_name: str) -> Name:
    """Give the engine's name for a CSI name, which may be any text up to 128 bytes.

    160 bits of SHA-256: two different CSI names never meet in practice, and the name
    stays inside the 63 characters that names may have.
    """
    raw = csi_name.encode("utf-8", "surrogatepass")
    if not 1 <= len(raw) <= CSI_NAME_BYTES_MAX:
        raise InvalidArgumentError(
            f"a CSI name has 1 to {CSI_NAME_BYTES_MAX} bytes, this one has {len(raw)}",
            code="invalid_name",
        )
    return Name("csi-" + hashlib.sha256(raw).hexdigest()[:40])


def _shown(text: str) -> str:
    """Bad input as it may appear in a message: quoted, escaped, and never longer than 80."""
    shown_max = 80
    return ascii(text if len(text) <= shown_max else text[:shown_max] + "…")
