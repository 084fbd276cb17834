"""gRPC statuses to and from errors, the stable code and the hint in the trailing metadata."""

from __future__ import annotations

from typing import Final

import grpc

from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    DataError,
    DeadlineError,
    DeniedError,
    DrystoneError,
    InvalidArgumentError,
    InvariantError,
    NoSpaceError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from drystone_storaged.agent.tls_errors import of_text

CODE_METADATA: Final = "drystone-code"
HINT_METADATA: Final = "drystone-hint"
TEXT_CHARS_MAX: Final = 1000  # travels in a header, which many peers bound to 8 KiB in all

_STATUS: Final[dict[str, grpc.StatusCode]] = {
    InvalidArgumentError.kind: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError.kind: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError.kind: grpc.StatusCode.ALREADY_EXISTS,
    ConflictError.kind: grpc.StatusCode.FAILED_PRECONDITION,
    UnavailableError.kind: grpc.StatusCode.UNAVAILABLE,
    UnauthenticatedError.kind: grpc.StatusCode.UNAUTHENTICATED,
    DeniedError.kind: grpc.StatusCode.PERMISSION_DENIED,
    DeadlineError.kind: grpc.StatusCode.DEADLINE_EXCEEDED,
    NoSpaceError.kind: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DataError.kind: grpc.StatusCode.DATA_LOSS,
    InvariantError.kind: grpc.StatusCode.INTERNAL,
    DrystoneError.kind: grpc.StatusCode.INTERNAL,
}

_KIND: Final[dict[grpc.StatusCode, type[DrystoneError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: ConflictError,
    grpc.StatusCode.ABORTED: ConflictError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: DeniedError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: NoSpaceError,
    grpc.StatusCode.DATA_LOSS: DataError,
}


def status_of(error: DrystoneError) -> grpc.StatusCode:
    """Give the status for a kind of error; of a code, where CSI knows a better one."""
    if error.code == "busy":
        return grpc.StatusCode.ABORTED
    return _STATUS.get(error.kind, grpc.StatusCode.INTERNAL)


def trailing_of(error: DrystoneError) -> tuple[tuple[str, str], ...]:
    """Give the trailing metadata of an error. Headers are ASCII: other letters are escaped."""
    items = [(CODE_METADATA, _header(error.code))]
    if error.hint:
        items.append((HINT_METADATA, _header(error.hint)))
    return tuple(items)


def error_of(call: grpc.aio.AioRpcError, peer: str) -> DrystoneError:
    """Rebuild the error that a peer answered; ``peer`` names it in the message."""
    kind = _KIND.get(call.code(), DrystoneError)
    found: dict[str, str] = {}
    for key, value in call.trailing_metadata() or ():
        found[key] = value.decode(errors="replace") if isinstance(value, bytes) else value
    if call.code() is grpc.StatusCode.UNAVAILABLE and CODE_METADATA not in found:
        known = of_text(call.details() or "", peer)
        if known is not None:
            return known
    message = f"{peer}: {call.details() or call.code().name}"[:TEXT_CHARS_MAX]
    return kind(message, code=found.get(CODE_METADATA), hint=found.get(HINT_METADATA))


def _header(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode().replace("\n", " ")[:TEXT_CHARS_MAX]
