"""What etcd refuses, as the store's errors."""

from __future__ import annotations

from typing import Final

import grpc

from drystone_common.errors import DeniedError, DrystoneError
from drystone_storaged.cluster.store import (
    CompactedError,
    LeaseNotFoundError,
    StoreLimitError,
    StoreUnavailableError,
)

# A bad login comes as INVALID_ARGUMENT ("invalid user ID or password", "user name is empty").
_DENIED: Final = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED)
_OLD: Final = "revision of auth store is old"


class StoreDeniedError(DeniedError):
    """etcd does not accept who we are, or does not let us do this."""

    default_code = "store_denied"


class StoreFullError(StoreUnavailableError):
    """etcd has reached its space quota: it reads, and refuses writes until there is room."""

    default_code = "store_full"


def is_bad_token(error: grpc.aio.AioRpcError) -> bool:
    """The login has expired or is outdated: nothing was done, and a new login helps."""
    return error.code() is grpc.StatusCode.UNAUTHENTICATED or _is_outdated(error)


def _is_outdated(error: grpc.aio.AioRpcError) -> bool:
    # A token of the kind JWT holds the revision of users and roles; any change of them, such as
    # another cluster's user in the same etcd, outdates every token.
    return error.code() is grpc.StatusCode.INVALID_ARGUMENT and _OLD in (error.details() or "")


def _gone(code: grpc.StatusCode, text: str) -> DrystoneError | None:
    if code is grpc.StatusCode.NOT_FOUND and "lease" in text:
        return LeaseNotFoundError("the lease expired or was revoked")
    if code is grpc.StatusCode.OUT_OF_RANGE and "compacted" in text:
        return CompactedError(0)  # which revision is the oldest is not told here
    return None


def translated(error: grpc.aio.AioRpcError) -> DrystoneError:
    """The error of the store for a call that etcd did not carry out, or of which nobody knows."""
    code, text = error.code(), error.details() or "no reason given"
    gone = _gone(code, text)
    if gone is not None:
        return gone
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and "space" in text:
        return StoreFullError(
            f"etcd is out of space: {text}",
            hint="compact and defragment it or raise --quota-backend-bytes, then disarm the alarm",
        )
    if code in _DENIED or (code is grpc.StatusCode.INVALID_ARGUMENT and "user" in text):
        return StoreDeniedError(
            f"etcd refuses access: {text}",
            hint="check user, password and the role's permission for the whole namespace",
        )
    if _is_outdated(error):
        return StoreUnavailableError("etcd's users changed during a login", hint="try again")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return StoreLimitError(f"etcd refuses the request: {text}")
    return StoreUnavailableError(
        f"etcd did not answer: {text}", hint="check that a majority of etcd's members runs"
    )
