"""What connected servers say of drives that they do not serve. In memory; each server says all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from drystone_storaged.proto import control_pb2 as pb

DRIVES_MAX: Final = 256  # of one server; more drives than a machine has
TEXT_MAX: Final = 500
FAILED: Final = "drive_failed"
"""The code of a drive that its server served and whose engine answers no request any more."""

ENOSPC: Final = "(ENOSPC)"
"""In the reason of a server that found the file system full, with what to do."""

UUID_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Refusal:
    """One drive; ``uuid`` is empty where none is known in that place."""

    uuid: str
    path: str
    code: str
    reason: str


class Refusals:
    """The newest word of each server."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[Refusal, ...]] = {}

    def report(self, node: str, refused: pb.RefusedDrives) -> None:
        """Take over what a server says: it names all of its drives that are refused."""
        self._told[node] = tuple(
            Refusal(
                str(UUID(bytes=drive.uuid)) if len(drive.uuid) == UUID_BYTES else "",
                drive.path[:TEXT_MAX],
                drive.code[:TEXT_MAX],
                drive.reason[:TEXT_MAX],
            )
            for drive in refused.drives[:DRIVES_MAX]
        )

    def forget(self, node: str) -> None:
        """Its process is gone: the next one looks at its drives anew."""
        self._told.pop(node, None)

    def clear(self) -> None:
        """Nothing is known."""
        self._told.clear()

    def of(self, node: str) -> tuple[Refusal, ...]:
        """What a server refuses."""
        return self._told.get(node, ())

    def failed(self, node: str, uuid: str) -> Refusal | None:
        """What a server says of a drive of its own that failed, whatever the map still shows."""
        return next((r for r in self.of(node) if r.uuid == uuid and r.code == FAILED), None)
