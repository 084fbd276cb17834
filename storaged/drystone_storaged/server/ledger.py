"""Which path was formatted as which drive: so that a wiped or lost file is never formatted again.

A blank file where a drive used to be is lost data, not a new drive. The entry is written before
the format, so a crash in between is continued and not taken for a loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from drystone_common.errors import DataError, NotFoundError
from drystone_common.files import atomic_write_json, read_json

FILE_NAME: Final = "drives.json"


class Phase(StrEnum):
    """How far a drive got."""

    FORMATTING = "formatting"
    KNOWN = "known"


@dataclass(frozen=True, slots=True)
class Entry:
    """A drive's uuid and phase."""

    uuid: str
    phase: Phase


class Ledger:
    """The file in the state folder."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE_NAME
        self._entries = self._read()

    def get(self, path: str) -> Entry | None:
        """What is known of a path."""
        return self._entries.get(path)

    def put(self, path: str, entry: Entry) -> None:
        """Remember it durably."""
        if self._entries.get(path) == entry:
            return
        self._entries[path] = entry
        atomic_write_json(
            self._path,
            {path: {"uuid": e.uuid, "phase": e.phase.value} for path, e in self._entries.items()},
        )

    def entries(self) -> dict[str, str]:
        """Every place that has a drive, with its uuid."""
        return {
            path: entry.uuid for path, entry in self._entries.items() if entry.phase is Phase.KNOWN
        }

    def _read(self) -> dict[str, Entry]:
        try:
            data = read_json(self._path)
        except NotFoundError:
            return {}
        try:
            if not isinstance(data, dict):
                raise TypeError("not an object")  # noqa: TRY301 - one exit for all damage
            return {
                str(path): Entry(str(item["uuid"]), Phase(item["phase"]))
                for path, item in data.items()
            }
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{self._path} is damaged",
                code="file_damaged",
                hint="restore it; without it a lost drive file could be taken for a new one",
            ) from error
