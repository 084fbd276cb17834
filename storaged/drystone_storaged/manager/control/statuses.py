"""Typed errors as gRPC statuses; `drystone-code` and `drystone-hint` in trailing metadata."""

from __future__ import annotations

from typing import Any, Final, NoReturn

import grpc

from drystone_common.errors import DrystoneError

STATUS: Final[dict[str, grpc.StatusCode]] = {
    "failed": grpc.StatusCode.UNKNOWN,
    "invalid_argument": grpc.StatusCode.INVALID_ARGUMENT,
    "not_found": grpc.StatusCode.NOT_FOUND,
    "already_exists": grpc.StatusCode.ALREADY_EXISTS,
    "conflict": grpc.StatusCode.FAILED_PRECONDITION,
    "unavailable": grpc.StatusCode.UNAVAILABLE,
    "unauthenticated": grpc.StatusCode.UNAUTHENTICATED,
    "denied": grpc.StatusCode.PERMISSION_DENIED,
    "deadline": grpc.StatusCode.DEADLINE_EXCEEDED,
    "no_space": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "data": grpc.StatusCode.DATA_LOSS,
    "internal": grpc.StatusCode.INTERNAL,
}


async def abort(context: grpc.aio.ServicerContext[Any, Any], error: DrystoneError) -> NoReturn:
    """End a call with this error."""
    metadata = [("drystone-code", error.code)]
    if error.hint:
        # Metadata is ASCII; hints are English sentences.
        metadata.append(("drystone-hint", error.hint.encode("ascii", "replace").decode()))
    await context.abort(STATUS[error.kind], error.message, tuple(metadata))
    raise AssertionError  # abort raised already; for the type checker
