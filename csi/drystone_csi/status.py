"""Errors as the gRPC statuses that CSI wants. What is not special to CSI is shared."""

from __future__ import annotations

from typing import Final

import grpc

from drystone_common.errors import ConflictError, DrystoneError
from drystone_storaged.agent.status import CODE_METADATA, error_of
from drystone_storaged.agent.status import status_of as by_kind

MESSAGE_CHARS_MAX: Final = 2000  # gRPC sends it in a header, and many peers allow 8 KiB of those

_BY_CODE: Final = {
    # CSI has statuses for these that the kind of the error does not tell.
    "busy": grpc.StatusCode.ABORTED,
    "invalid_cursor": grpc.StatusCode.ABORTED,
    "size_out_of_range": grpc.StatusCode.OUT_OF_RANGE,
    "volume_mode_conflict": grpc.StatusCode.ALREADY_EXISTS,
    "unsupported": grpc.StatusCode.UNIMPLEMENTED,
}


def status_of(error: DrystoneError) -> grpc.StatusCode:
    """Give the status that CSI wants for an error."""
    return _BY_CODE.get(error.code) or by_kind(error)


def message_of(error: DrystoneError) -> str:
    """Message and next step, bounded."""
    return str(error)[:MESSAGE_CHARS_MAX]


def busy(volume_id: str) -> ConflictError:
    """Say that another call works on this volume; the caller tries again."""
    return ConflictError(f"another operation on volume {volume_id} is under way", code="busy")


__all__ = ["CODE_METADATA", "busy", "error_of", "message_of", "status_of"]
