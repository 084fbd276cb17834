"""From a path to a drive that may be opened: inspect, refuse with a reason, format if allowed."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from drystone_common.errors import ConflictError, DataError, NotFoundError
from drystone_common.ids import new_uuid
from drystone_common.logs import get_logger
from drystone_storaged.agent.register import Membership
from drystone_storaged.server.ledger import Entry, Ledger, Phase
from drystone_storaged.server.settings import DriveSettings

_log = get_logger(__name__)

_REFUSED: Final = {
    "foreign": (
        "drive_foreign",
        "it holds something else; name another path, or wipe it if that is not needed",
    ),
    "damaged": (
        "drive_damaged",
        "put the file back as it was, not only its size, or replace the drive",
    ),
}


class DriveTools(Protocol):
    """Blocking functions of the native module."""

    def inspect_drive(self, path: str) -> str:
        """Say what is on a drive."""
        ...

    def format_drive(self, path: str, spec: str) -> str:
        """Make a blank drive one of ours."""
        ...

    def salvage_drive(self, path: str, spec: str) -> str:
        """Write superblocks anew that are lost, if the segments name the drive."""
        ...


@dataclass(frozen=True, slots=True)
class Superblock:
    """What a drive says of itself."""

    uuid: str
    nonce: int
    incarnation: int
    revision: int
    size: int


class Guard(Protocol):
    """Looks once more at a drive that no settings file names; raises where something differs."""

    async def identify(self, drive: DriveSettings) -> None:
        """Its path still leads to its device."""
        ...

    async def require_blank(self, drive: DriveSettings) -> None:
        """Nothing is on it, now."""
        ...


class Preparer:
    """Prepares the drives of one server."""

    def __init__(
        self,
        tools: DriveTools,
        ledger: Ledger,
        membership: Membership,
        forgotten: Callable[[str], bool] = lambda _: False,
        guard: Guard | None = None,
    ) -> None:
        self._tools = tools
        self._ledger = ledger
        self._membership = membership
        self._forgotten = forgotten
        self._guard = guard
        self.formatting: set[str] = set()
        """Keys of the drives that are being formatted now."""
        self.on_format: Callable[[], None] = lambda: None

    def uuid_of(self, key: str) -> str:
        """The drive that was last here; empty if there was none."""
        entry = self._ledger.get(key)
        return entry.uuid if entry else ""

    def is_free(self, key: str) -> bool:
        """Whether the drive that was last here is forgotten for good."""
        entry = self._ledger.get(key)
        return entry is not None and entry.phase is Phase.KNOWN and self._forgotten(entry.uuid)

    async def prepare(self, drive: DriveSettings) -> Superblock:
        """Give the superblock, formatting first where that is allowed and harmless."""
        if self._guard is not None:
            await self._guard.identify(drive)
        found = await self._inspect(drive.path)
        entry = self._remembered(drive.key)
        half_made = entry is not None and entry.phase is Phase.FORMATTING
        # Only a file that this server made: one that somebody put there is not ours to remove.
        own_file = drive.create_bytes is not None and await asyncio.to_thread(_is_file, drive.path)
        if half_made and found["state"] == "damaged" and own_file:
            # Our own format was cut short before the manager ever heard of this drive.
            _log.warning("format_repeated", path=drive.path)
            await asyncio.to_thread(Path(drive.path).unlink)
            found = await self._inspect(drive.path)
        if found["state"] == "damaged" and entry is not None and entry.phase is Phase.KNOWN:
            found = await self._salvage(drive, found, entry)
        if found["state"] in ("missing", "blank"):
            found = await self._format(drive, found, entry)
        if found["state"] == "in-use":
            raise ConflictError(
                f"{drive.path} is open in another process",
                code="drive_in_use",
                hint="end that process; the server tries again by itself",
            )
        if found["state"] != "drystone":
            code, hint = _REFUSED.get(str(found["state"]), ("drive_unusable", None))
            raise DataError(f"{drive.path}: {found['reason']}", code=code, hint=hint)
        return self._known(drive, found, entry)

    def _remembered(self, key: str) -> Entry | None:
        """What must be here. A drive that an operator forgot makes room for another one."""
        return None if self.is_free(key) else self._ledger.get(key)

    def _known(
        self, drive: DriveSettings, found: dict[str, object], entry: Entry | None
    ) -> Superblock:
        cluster, uuid = str(found["cluster"]), str(found["uuid"])
        if cluster != str(self._membership.cluster):
            raise DataError(
                f"{drive.path} belongs to cluster {cluster}",
                code="wrong_cluster",
                hint="name another path, or wipe the drive if its data is not needed",
            )
        if entry is not None and entry.uuid != uuid:
            raise DataError(
                f"{drive.path} was drive {entry.uuid} and is {uuid} now",
                code="drive_exchanged",
                hint="put the old one back; `drystone drive forget NUMBER --yes` admits another",
            )
        self._ledger.put(drive.key, Entry(uuid, Phase.KNOWN))
        return Superblock(
            uuid,
            _number(found, "nonce"),
            _number(found, "incarnation"),
            _number(found, "revision"),
            _number(found, "size"),
        )

    async def _format(
        self, drive: DriveSettings, found: dict[str, object], entry: Entry | None
    ) -> dict[str, object]:
        missing = found["state"] == "missing"
        if entry is not None and entry.phase is Phase.KNOWN:
            raise DataError(
                f"{drive.path} was drive {entry.uuid} and is {found['state']} now",
                code="drive_lost",
                hint="put it back; if it is lost for good, `drystone drive forget NUMBER --yes` "
                "lets a new one take its place: the data is on the other copies",
            )
        if not drive.init or (missing and drive.create_bytes is None):
            raise NotFoundError(
                f"{drive.path} is {found['state']}",
                code="drive_not_formatted",
                hint="set init = true (and create_bytes for a new file) to make it a drive",
            )
        if self._guard is not None:
            await self._guard.require_blank(drive)
        self.formatting.add(drive.key)
        self.on_format()
        try:
            return await self._make(drive, entry, missing=missing)
        finally:
            self.formatting.discard(drive.key)

    async def _make(
        self, drive: DriveSettings, entry: Entry | None, *, missing: bool
    ) -> dict[str, object]:
        uuid = entry.uuid if entry else str(new_uuid())
        self._ledger.put(drive.key, Entry(uuid, Phase.FORMATTING))
        created = drive.create_bytes if missing else None
        spec = {**self._spec(drive, uuid), "create_bytes": created}
        if missing:
            Path(drive.path).parent.mkdir(parents=True, exist_ok=True)
        made = await _native(self._tools.format_drive, drive.path, json.dumps(spec))
        _log.info("drive_formatted", path=drive.path, uuid=uuid)
        return made

    async def _salvage(
        self, drive: DriveSettings, found: dict[str, object], entry: Entry
    ) -> dict[str, object]:
        """Let its segments say who it is: from then on it is suspect, and healed as such."""
        try:
            made = await _native(
                self._tools.salvage_drive, drive.path, json.dumps(self._spec(drive, entry.uuid))
            )
        except DataError as error:
            _log.info("drive_not_salvaged", path=drive.path, uuid=entry.uuid, reason=str(error))
            return found
        _log.warning("drive_salvaged", path=drive.path, uuid=entry.uuid, was=found["reason"])
        return made

    def _spec(self, drive: DriveSettings, uuid: str) -> dict[str, object]:
        return {
            "cluster": str(self._membership.cluster),
            "uuid": uuid,
            "incarnation": self._membership.incarnation,
            "feature_level": self._membership.feature_level,
            "segment_bytes": drive.segment_bytes,
        }

    async def _inspect(self, path: str) -> dict[str, object]:
        return await _native(self._tools.inspect_drive, path)


def serial_of(path: str, machine_id: str, device_id: str = "") -> str:
    """Identity of the device below a drive: a copied file or a moved disk shows here.

    The path of a file is no identity: a folder may be moved with everything in it.
    """
    found = os.stat(path)  # noqa: PTH116 - one call, its raw fields
    if not stat.S_ISBLK(found.st_mode):
        return f"file:{machine_id}:{found.st_dev:x}:{found.st_ino:x}"
    device = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    for name in ("serial", "wwid", "device/serial", "device/wwid"):
        try:
            text = Path(f"/sys/dev/block/{device}/{name}").read_text(errors="replace").strip()
        except OSError:
            continue
        if text:
            return f"dev:{text[:200]}"
    return f"dev:{device_id}" if device_id else f"dev:{machine_id}:{device}"


def _is_file(path: str) -> bool:
    return Path(path).is_file() and not Path(path).is_symlink()


async def _native(function: Callable[..., str], path: str, *rest: str) -> dict[str, object]:
    try:
        text = await asyncio.to_thread(function, path, *rest)
    except Exception as error:
        # The module's own exception type is not importable where a fake stands in for it.
        raise DataError(f"{path}: {error}", code="drive_unusable") from error
    data = json.loads(text)
    if not isinstance(data, dict):
        raise DataError("the native side answered no object", code="bad_answer")
    return data


def _number(found: dict[str, object], key: str) -> int:
    value = found.get(key)
    if not isinstance(value, int):
        raise DataError(f"the superblock has no {key}", code="bad_answer")
    return value
