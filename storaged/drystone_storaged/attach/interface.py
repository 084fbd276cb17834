"""What every attacher does, and what it is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Protocol

from drystone_common.errors import ConflictError
from drystone_common.ids import parse_id
from drystone_common.sockets import check_socket_path

SECTOR_BYTES: Final = 4096
"""Logical sector of every device: the engine's block, so that nobody pays for partial blocks."""


class AttacherKind(StrEnum):
    """The attachers by name, as settings and the CLI's ``--as`` write them."""

    NBD = "nbd"
    FUSE = "fuse"
    EXPORT = "export"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the export of a volume is: the same for the life of its attachment.

    A device survives a restart of the daemon because the daemon's next run serves the same
    export on the same path again.
    """

    socket: Path
    export: str

    def uri(self) -> str:
        """The address in the form that NBD clients take."""
        return f"nbd+unix:///{self.export}?socket={self.socket}"


@dataclass(frozen=True, slots=True)
class AttachSpec:
    """A volume that is to become a device; ``volume_id`` is 16 hexadecimal digits."""

    volume_id: str
    endpoint: Endpoint
    size_bytes: int
    read_only: bool = False

    def __post_init__(self) -> None:
        parse_id(self.volume_id, "volume id")
        check_socket_path(self.endpoint.socket)


@dataclass(frozen=True, slots=True)
class Device:
    """What an attacher made; ``path`` is None where there is no device but only the export."""

    volume_id: str
    kind: AttacherKind
    path: str | None
    size_bytes: int


InFlight = Callable[[str], Awaitable[int]]
"""Requests of a volume that the daemon has taken and not answered, of connections that are gone
too."""


async def none_in_flight(_: str) -> int:
    """For a daemon that cannot say."""
    return 0


class Attacher(Protocol):
    """One way to make devices. Calls for one volume do not overlap: the daemon sees to that."""

    @property
    def kind(self) -> AttacherKind:
        """Which one it is."""
        ...

    async def attach(self, spec: AttachSpec) -> Device:
        """Make the device, or give the one that is there (as ``adopt``)."""
        ...

    async def adopt(self, spec: AttachSpec) -> Device | None:
        """Take over the device that an earlier run left, connecting it to the export again.

        None if there is none that works; ``attach`` then clears away its remains.
        """
        ...

    async def found(self) -> tuple[str, ...]:
        """Volume ids of all devices that an earlier run left."""
        ...

    async def detach(self, volume_id: str, *, force: bool = False) -> None:
        """Remove the device; nothing there is fine. An open one is ConflictError unless forced."""
        ...

    async def resize(self, volume_id: str, size_bytes: int) -> Device:
        """Show a larger size. The export must have it already."""
        ...

    async def aclose(self) -> None:
        """Stop watching, before the exports end. Devices stay."""
        ...


def device_busy(device: str) -> ConflictError:
    """Say that somebody uses the device."""
    return ConflictError(
        f"{device} is in use",
        code="device_busy",
        hint="unmount it and close what has it open, or detach with force and lose queued writes",
    )
