"""Making sure that a device holds the file system that is asked for, and never by accident.

The volume's ``content`` record decides, not the probe alone: a probe that fails, or that reads
old bytes, must never lead to a format.

    never --CAS--> formatting{fs, nonce} --mkfs, sync--> CAS --> fs{type}

A crash between the two leaves ``formatting``, which says: nobody ever used what is there, so
the next stage may format again, under a nonce of its own. Nothing is mounted before ``fs``: what
was mounted, or is no file system of ours, is therefore of later than the record, which an older
copy of the metadata store brought back, and is left alone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence

from drystone_common.errors import ConflictError, DataError
from drystone_csi.devices import Devices
from drystone_csi.model import (
    FILE_SYSTEMS,
    RAW,
    AccessMode,
    Content,
    ContentState,
    FileSystem,
    Volume,
)
from drystone_csi.ports import ManagerApi

Nonce = Callable[[], str]


class Contents:
    """Formats at most once, and only by the rules above."""

    def __init__(
        self, manager: ManagerApi, devices: Devices, nonce: Nonce = lambda: secrets.token_hex(8)
    ) -> None:
        self._manager = manager
        self._devices = devices
        self._nonce = nonce

    async def ensure(
        self,
        volume: Volume,
        device: str,
        *,
        wanted: FileSystem | None,
        mode: AccessMode,
        options: Sequence[str],
        default: FileSystem,
    ) -> FileSystem:
        """Give the file system on the device, made if it is time for that."""
        content = volume.content
        if content.state in {ContentState.FS, ContentState.RAW}:
            return await self._existing(volume, device, wanted)
        fs = wanted or default
        if content.state is ContentState.NEVER:
            found = await self._devices.probe(device)
            if found is not None:
                return await self._adopt(volume, device, fs)
            if mode is AccessMode.READ_WRITE:
                await self._devices.require_blank(device)
        if mode is not AccessMode.READ_WRITE:
            raise ConflictError(
                f"volume {volume.id} has no file system, and is attached read-only",
                code="not_formatted",
                hint="use it once in a writable mode",
            )
        if content.state is ContentState.FORMATTING:
            await self._require_unused(volume, device)
        await self._format(volume, device, fs, options)
        return fs

    async def mark_raw(self, volume: Volume) -> None:
        """Record that a consumer owns the bytes, so that nobody formats them later."""
        if volume.content.state is ContentState.NEVER:
            await self._manager.set_content(volume.id, volume.content, RAW)
        elif volume.content.state is ContentState.FORMATTING:
            raise ConflictError(
                f"volume {volume.id} is being formatted and cannot be used as a raw device",
                code="content_conflict",
            )

    async def _format(
        self, volume: Volume, device: str, fs: FileSystem, options: Sequence[str]
    ) -> None:
        attempt = Content(ContentState.FORMATTING, fs, self._nonce())
        await self._manager.set_content(volume.id, volume.content, attempt)
        await self._devices.format(device, fs, volume.size, options)
        await self._manager.set_content(volume.id, attempt, Content(ContentState.FS, fs))

    async def _require_unused(self, volume: Volume, device: str) -> None:
        found = await self._devices.probe(device)
        if found is not None and await self._devices.used(device, found):
            raise ConflictError(
                f"volume {volume.id} is recorded as being formatted, and holds {found.kind} that "
                "was used: the record is older than what is there, and nothing is formatted",
                code="content_conflict",
                hint="look at it before anything else (docs/runbooks/metadata-lost.md, "
                "A record that says formatting)",
            )

    async def _existing(self, volume: Volume, device: str, wanted: FileSystem | None) -> FileSystem:
        """What is recorded, or was made by the owner of a raw volume, must be there."""
        found = await self._devices.probe(device)
        if found is None:
            recorded = volume.content.fs or volume.content.state
            raise DataError(
                f"volume {volume.id} should hold {recorded}, and its device {device} is blank; "
                "it is not formatted",
                code="content_missing",
                hint="look for lost data before anything else; restore from a snapshot or backup",
            )
        expected = wanted or volume.content.fs
        if found.kind not in FILE_SYSTEMS or (expected and found.kind != expected):
            raise ConflictError(
                f"volume {volume.id} holds {found.kind}, not {expected or 'ext4 or xfs'}",
                code="content_conflict",
                hint="ask for the file system that is there",
            )
        return FileSystem(found.kind)

    async def _adopt(self, volume: Volume, device: str, fs: FileSystem) -> FileSystem:
        """Somebody made a file system without us: take it if it is the one asked for."""
        found = await self._devices.probe(device)
        if found is None or found.kind != fs:
            kind = found.kind if found else "something that a second probe did not find"
            raise ConflictError(
                f"volume {volume.id} was never formatted by this driver and holds {kind}",
                code="not_blank",
                hint=f"it is used as {fs} only when blank, or when it holds {fs}",
            )
        await self._manager.set_content(volume.id, volume.content, Content(ContentState.FS, fs))
        return fs
