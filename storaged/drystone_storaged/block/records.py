"""What is attached here, on disk: written before the manager is asked, so that no nonce is lost.

A restart proves its attachments by these nonces. One file a volume, named by its id.
"""

from __future__ import annotations

import base64
import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from drystone_common.errors import DataError
from drystone_common.files import atomic_write_json, fsync_dir, read_json
from drystone_common.ids import format_id, parse_id
from drystone_common.logs import get_logger
from drystone_storaged.attach.interface import AttacherKind

NONCES_MAX: Final = 64
"""Restarts without a manager that are remembered. The first nonces are those that may be in the
manager's record; of more tries the last ones are kept as well."""

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """One attachment. ``generation`` 0: the manager has not granted it yet."""

    volume: int
    read_only: bool
    attacher: AttacherKind
    nonces: tuple[int, ...]
    name: str = ""
    generation: int = 0
    size_bytes: int = 0
    ticket: bytes = b""

    @property
    def volume_id(self) -> str:
        """The id as everything outside the engine spells it."""
        return format_id(self.volume)

    @property
    def nonce(self) -> int:
        """The newest nonce."""
        return self.nonces[-1]

    def tried(self, nonce: int) -> tuple[int, ...]:
        """The nonces with one more, bounded."""
        known = (*self.nonces, nonce)
        return known if len(known) <= NONCES_MAX else (*known[: NONCES_MAX // 2], nonce)


class Records:
    """The folder of records."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def save(self, record: Record) -> None:
        """Write durably."""
        atomic_write_json(
            self._path(record.volume),
            {
                "volume": record.volume_id,
                "read_only": record.read_only,
                "attacher": record.attacher.value,
                "nonces": [format_id(nonce) for nonce in record.nonces],
                "name": record.name,
                "generation": record.generation,
                "size_bytes": record.size_bytes,
                "ticket": base64.b64encode(record.ticket).decode(),
            },
        )

    def remove(self, volume: int) -> None:
        """Forget durably; one that is not there is fine."""
        with contextlib.suppress(FileNotFoundError):
            self._path(volume).unlink()
            fsync_dir(self._folder)

    def load(self) -> list[Record]:
        """Read everything; a damaged file is left where it is, and said."""
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                found.append(_parse(read_json(path)))
            except (DataError, KeyError, TypeError, ValueError) as error:
                _log.error("attachment_record_damaged", path=str(path), reason=str(error))
        return found

    def _path(self, volume: int) -> Path:
        return self._folder / f"{format_id(volume)}.json"


def _parse(data: Any) -> Record:
    return Record(
        volume=parse_id(data["volume"], "volume id"),
        read_only=bool(data["read_only"]),
        attacher=AttacherKind(data["attacher"]),
        nonces=tuple(parse_id(nonce, "nonce") for nonce in data["nonces"]),
        name=str(data["name"]),
        generation=int(data["generation"]),
        size_bytes=int(data["size_bytes"]),
        ticket=base64.b64decode(data["ticket"]),
    )
