"""One hierarchy of errors, with a stable code, a message, and what the reader can do next.

The class says the kind of failure; REST, gRPC and the CLI each map kinds to their own
numbers in one place. ``code`` names the exact reason and never changes once published:
scripts match on it, people read ``message`` and ``hint``.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import ClassVar, Final


class ExitCode(IntEnum):
    """Exit codes of the command line. Published: values are never reused."""

    OK = 0
    FAILED = 1
    USAGE = 2  # the shell convention, and what typer uses for a bad command line
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    DENIED = 6
    DEADLINE = 7
    NO_SPACE = 8
    DATA = 9
    INTERNAL = 70  # EX_SOFTWARE of sysexits.h: a defect of ours


class DrystoneError(Exception):
    """Base of every error that is meant to be handled or shown.

    ``hint`` tells the next step ("run `drystone node list`"), ``details`` carries values for
    programs (ids, limits). Neither may hold a secret: both end up in logs and answers.
    """

    kind: ClassVar[str] = "failed"
    default_code: ClassVar[str] = "failed"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        code: str | None = None,
        details: Mapping[str, str | int | bool] | None = None,
    ) -> None:
        super().__init__(message)
        self.message: Final = message
        self.hint: Final = hint
        self.code: Final = code or self.default_code
        self.details: Final[dict[str, str | int | bool]] = dict(details or {})

    def __str__(self) -> str:
        """Message and next step in one line, as logs and terminals show it."""
        return f"{self.message} ({self.hint})" if self.hint else self.message

    def as_dict(self) -> dict[str, object]:
        """The form that travels: ``error_from_dict`` rebuilds the same error from it."""
        return {
            "kind": self.kind,
            "code": self.code,
            "message": self.message,
            "hint": self.hint,
            "details": self.details,
        }


class InvalidArgumentError(DrystoneError):
    """The request can never succeed as it is written."""

    kind = "invalid_argument"
    default_code = "invalid_argument"
    exit_code = ExitCode.USAGE


class NotFoundError(DrystoneError):
    """What the request names does not exist."""

    kind = "not_found"
    default_code = "not_found"
    exit_code = ExitCode.NOT_FOUND


class AlreadyExistsError(DrystoneError):
    """The name is taken by something with other properties."""

    kind = "already_exists"
    default_code = "already_exists"
    exit_code = ExitCode.CONFLICT


class ConflictError(DrystoneError):
    """The object is in a state, or in use in a way, that excludes the request for now."""

    kind = "conflict"
    default_code = "conflict"
    exit_code = ExitCode.CONFLICT


class UnavailableError(DrystoneError):
    """A peer, a majority or a copy cannot be reached; the same request may succeed later."""

    kind = "unavailable"
    default_code = "unavailable"
    exit_code = ExitCode.UNAVAILABLE


class UnauthenticatedError(DrystoneError):
    """No credential, or one that does not verify."""

    kind = "unauthenticated"
    default_code = "unauthenticated"
    exit_code = ExitCode.DENIED


class DeniedError(DrystoneError):
    """The credential is good but does not allow this."""

    kind = "denied"
    default_code = "denied"
    exit_code = ExitCode.DENIED


class DeadlineError(DrystoneError):
    """A wait reached its deadline. Whether the work happened is unknown: look before repeating."""

    kind = "deadline"
    default_code = "deadline_exceeded"
    exit_code = ExitCode.DEADLINE


class NoSpaceError(DrystoneError):
    """No room for new data, or a limit on the number of objects is reached."""

    kind = "no_space"
    default_code = "no_space"
    exit_code = ExitCode.NO_SPACE


class DataError(DrystoneError):
    """Stored bytes are missing, foreign or do not match their checksum."""

    kind = "data"
    default_code = "data_error"
    exit_code = ExitCode.DATA


class InvariantError(DrystoneError):
    """Something that must always hold does not: a defect. Checked in production builds too."""

    kind = "internal"
    default_code = "invariant_broken"
    exit_code = ExitCode.INTERNAL


_KINDS: Final[dict[str, type[DrystoneError]]] = {
    error.kind: error
    for error in (
        DrystoneError,
        InvalidArgumentError,
        NotFoundError,
        AlreadyExistsError,
        ConflictError,
        UnavailableError,
        UnauthenticatedError,
        DeniedError,
        DeadlineError,
        NoSpaceError,
        DataError,
        InvariantError,
    )
}

KINDS: Final = tuple(_KINDS)
"""Every kind, for the tables of REST, gRPC and the CLI to be checked against."""


def error_from_dict(data: Mapping[str, object]) -> DrystoneError:
    """Rebuild an error that another process sent; an unknown kind becomes the base class.

    The sender may be newer or hostile, so every field is checked and bounded.
    """
    kind = data.get("kind")
    cls = _KINDS.get(kind, DrystoneError) if isinstance(kind, str) else DrystoneError
    raw = data.get("details")
    details: dict[str, str | int | bool] = {}
    if isinstance(raw, Mapping):
        # 32 values are many times what any error carries; more is noise.
        for key, value in list(raw.items())[:32]:
            if isinstance(value, str | int | bool):
                details[str(key)[:64]] = value[:1024] if isinstance(value, str) else value
    return cls(
        _text(data.get("message")) or "the peer reported an error without a message",
        hint=_text(data.get("hint")),
        code=_text(data.get("code")),
        details=details,
    )


def _text(value: object) -> str | None:
    # 4096 characters: a message is a sentence or two; nobody reads or stores more.
    return value[:4096] if isinstance(value, str) and value else None
