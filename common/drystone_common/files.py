"""Small files that must be whole after a crash, and reads that cannot exhaust memory."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Final

from drystone_common.errors import DataError, NotFoundError

FILE_BYTES_MAX: Final = 1 << 20  # state and settings files are a few KiB; 1 MiB bounds a bad one
PRIVATE_MODE: Final = 0o600  # most of these files hold ids or credentials


def atomic_write(path: Path, data: bytes, *, mode: int = PRIVATE_MODE) -> None:
    """Replace ``path`` so that a crash leaves the old or the new content, durably.

    The new content is flushed before the rename and the folder after it: without the second
    flush a power cut may bring the old name back.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(stream.fileno(), mode)  # the umask must not decide who reads it
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def atomic_write_text(path: Path, text: str, *, mode: int = PRIVATE_MODE) -> None:
    """``atomic_write`` for text, UTF-8."""
    atomic_write(path, text.encode(), mode=mode)


def atomic_write_json(path: Path, value: object, *, mode: int = PRIVATE_MODE) -> None:
    """``atomic_write`` for JSON with stable key order, so that equal content is equal bytes."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False)
    atomic_write_text(path, text + "\n", mode=mode)


def read_limited(path: Path, *, bytes_max: int = FILE_BYTES_MAX) -> bytes:
    """Read a whole small file; one that is larger than ``bytes_max`` is refused."""
    try:
        with path.open("rb") as stream:
            data = stream.read(bytes_max + 1)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist", code="file_missing") from error
    if len(data) > bytes_max:
        raise DataError(
            f"{path} is larger than {bytes_max} bytes",
            code="file_too_large",
            hint="it was not written by Drystone, or it is damaged",
        )
    return data


def read_json(path: Path, *, bytes_max: int = FILE_BYTES_MAX) -> object:
    """Read what ``atomic_write_json`` wrote; anything else is a ``DataError``."""
    data = read_limited(path, bytes_max=bytes_max)
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} does not hold JSON",
            code="file_damaged",
            hint="restore it from a backup, or remove it if the state may be made anew",
        ) from error


def fsync_dir(path: Path) -> None:
    """Make creations, renames and removals in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
