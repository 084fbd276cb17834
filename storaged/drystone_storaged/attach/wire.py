"""What a block daemon and `drystone fuse-helper` say to each other: a line of JSON each way.

The pods of the two are of different versions for months, because the helper's is replaced only
while its node has no volumes. So fields are only ever added, and both sides ignore unknown ones.

request:  ``{"call": "attach"|"adopt"|"found"|"detach"|"resize", …}``
answer:   ``{"ok": true, …}`` or ``{"ok": false, "error": {…}}`` (``DrystoneError.as_dict``)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from drystone_common.errors import DataError
from drystone_storaged.attach.interface import AttacherKind, AttachSpec, Device, Endpoint

REQUEST_BYTES_MAX: Final = 16384  # two paths of 107 bytes and a few words, escaped
ANSWER_BYTES_MAX: Final = 1 << 20  # every volume id of a node: 1 000 volumes are 20 KB

Json = dict[str, Any]


def encode(message: Mapping[str, object]) -> bytes:
    """One line."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> Json:
    """Read a line; DataError for anything that is not one JSON object."""
    try:
        data = json.loads(line)
    except ValueError as error:
        raise DataError(f"not a line of JSON: {line[:80]!r}", code="bad_message") from error
    if not isinstance(data, dict):
        raise DataError(f"not a JSON object: {line[:80]!r}", code="bad_message")
    return data


def text(data: Json, key: str) -> str:
    """A string of a message."""
    value = data.get(key)
    if not isinstance(value, str):
        raise DataError(f"{key} is missing or no text", code="bad_message")
    return value


def number(data: Json, key: str) -> int:
    """A number of a message, not negative."""
    value = data.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DataError(f"{key} is missing or no number", code="bad_message")
    return value


def flag(data: Json, key: str) -> bool:
    """A switch of a message; absent is off."""
    return data.get(key) is True


def spec_fields(spec: AttachSpec) -> Json:
    """A volume as fields of a request."""
    return {
        "volume": spec.volume_id,
        "socket": str(spec.endpoint.socket),
        "export": spec.endpoint.export,
        "size_bytes": spec.size_bytes,
        "read_only": spec.read_only,
    }


def spec_of(data: Json) -> AttachSpec:
    """The volume of a request; checked as every ``AttachSpec``."""
    endpoint = Endpoint(Path(text(data, "socket")), text(data, "export"))
    return AttachSpec(
        text(data, "volume"), endpoint, number(data, "size_bytes"), flag(data, "read_only")
    )


def device_fields(device: Device | None) -> Json:
    """A device as fields of an answer."""
    if device is None or device.path is None:
        return {"device": None}
    return {"device": device.path, "size_bytes": device.size_bytes}


def device_of(data: Json, volume_id: str) -> Device | None:
    """The device of an answer."""
    if data.get("device") is None:
        return None
    path = text(data, "device")
    return Device(volume_id, AttacherKind.FUSE, path, number(data, "size_bytes"))
