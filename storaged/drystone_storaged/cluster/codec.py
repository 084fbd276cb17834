"""Records as JSON: strict about types, so that a damaged value is an error and not a surprise."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from drystone_common.errors import DataError

FORMAT: Final = 1
"""Raised when a reader of the previous version would misread a record; guarded by feature level."""

RecordT = TypeVar("RecordT")


def encode(record: object) -> bytes:
    """Give the stored form of a record: compact JSON with its format first."""
    return json.dumps(
        {"v": FORMAT, **_plain_fields(record)}, separators=(",", ":"), ensure_ascii=False
    ).encode()


def decode(cls: type[RecordT], data: bytes) -> RecordT:
    """Read back a record; anything else than such a record is a ``DataError``."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(cls, "not JSON") from error
    if not isinstance(raw, dict) or raw.get("v") != FORMAT:
        raise _damaged(cls, "another format")
    return _read(cls, raw)  # type: ignore[no-any-return]


def _plain_fields(record: object) -> dict[str, Any]:
    kind: Any = type(record)
    return {name: _plain(getattr(record, name)) for name in _names(kind)}


def _plain(value: object) -> Any:
    if isinstance(value, Enum):
        return value.value
    if is_dataclass(value):
        return _plain_fields(value)
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


@cache
def _names(cls: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(cls))


@cache
def _hints(cls: type[Any]) -> dict[str, Any]:
    return get_type_hints(cls)


def _read(kind: Any, raw: Any) -> Any:
    if is_dataclass(kind) and isinstance(kind, type):
        return _read_dataclass(kind, raw)
    origin = get_origin(kind)
    if origin in (Union, UnionType):
        if raw is None:
            return None
        return _read(next(arg for arg in get_args(kind) if arg is not type(None)), raw)
    if origin is tuple:
        if not isinstance(raw, list):
            raise _damaged(kind, "not a list")
        return tuple(_read(get_args(kind)[0], item) for item in raw)
    if origin is dict:
        if not isinstance(raw, dict) or not all(isinstance(v, str) for v in raw.values()):
            raise _damaged(kind, "not a table of text")
        return raw
    return _read_scalar(kind, raw)


def _read_scalar(kind: Any, raw: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(raw)
        except ValueError as error:
            raise _damaged(kind, "an unknown value") from error
    if kind is float and type(raw) is int:
        return float(raw)
    # `type(...) is`: True must not pass for an integer.
    if type(raw) is not kind:
        raise _damaged(kind, f"it holds {type(raw).__name__}")
    return raw


def _read_dataclass(cls: Any, raw: Any) -> Any:
    if not isinstance(raw, dict):
        raise _damaged(cls, "not a table")
    hints = _hints(cls)
    # Unknown fields are those of a later program at the same feature level: not needed here.
    given = {name: _read(hints[name], raw[name]) for name in _names(cls) if name in raw}
    try:
        return cls(**given)
    except TypeError as error:
        raise _damaged(cls, "a field is missing") from error


def _damaged(kind: Any, why: str) -> DataError:
    name = getattr(kind, "__name__", str(kind))
    return DataError(
        f"a {name} in the metadata store cannot be read: {why}",
        code="record_damaged",
        hint="restore the metadata store from a backup, or run the program version that wrote it",
    )
