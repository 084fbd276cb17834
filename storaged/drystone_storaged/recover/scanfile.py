"""The file of a scan: what one node's drives say, with a format and a checksum over all of it.

The file travels from node to node by hand, and what stands in it decides who is in sync: one that
was changed, cut or mixed up is refused.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from drystone_common.errors import DataError
from drystone_common.files import atomic_write, read_limited
from drystone_storaged.cluster.scans import NodeScan

FORMAT: Final = 1
KIND: Final = "drystone-scan"
FILE_BYTES_MAX: Final = 1 << 30
"""A drive of the largest pools with a hundred thousand volumes takes some 40 MiB, a node 12."""

MAKE_IT: Final = "make it with `drystone recover scan --config server.toml --out FILE`"

_SCAN: Final = TypeAdapter(NodeScan)


class _Outside(BaseModel):
    """What is looked at before the content is believed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["drystone-scan"]
    format: int = Field(ge=1)
    sha256: str
    scan: dict[str, Any]


def write_scan(path: Path, scan: NodeScan) -> None:
    """Write it whole or not at all."""
    body = _SCAN.dump_python(scan, mode="json")
    outside = {"kind": KIND, "format": FORMAT, "sha256": _digest(body), "scan": body}
    atomic_write(path, json.dumps(outside, indent=1, ensure_ascii=False).encode() + b"\n")


def read_scan(path: Path) -> NodeScan:
    """Read it back; ``DataError`` for anything that ``write_scan`` did not write."""
    try:
        outside = _Outside.model_validate_json(read_limited(path, bytes_max=FILE_BYTES_MAX))
    except ValidationError as error:
        raise DataError(
            f"{path} is no scan of drives",
            code="scan_invalid",
            hint=MAKE_IT,
        ) from error
    if outside.format != FORMAT:
        raise DataError(
            f"{path} has format {outside.format}, this program reads {FORMAT}",
            code="scan_format",
            hint="scan and recover with the same version of the program",
        )
    if _digest(outside.scan) != outside.sha256:
        raise DataError(
            f"{path} is not as it was written: its checksum does not fit",
            code="scan_damaged",
            hint="copy it again from its node, or scan there again; it must not be edited",
        )
    return _parsed(path, outside.scan)


def _parsed(path: Path, body: dict[str, Any]) -> NodeScan:
    try:
        scan = _SCAN.validate_python(body)
        for text in (scan.cluster, *(d.cluster for d in scan.drives)):
            UUID(text)
        bytes.fromhex(scan.node_uuid)
    except ValueError as error:
        raise DataError(
            f"{path} does not hold a scan: {error}", code="scan_invalid", hint=MAKE_IT
        ) from error
    return scan


def _digest(body: dict[str, Any]) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
