"""What the node does with a volume: stage, publish, measure, grow, and back.

Keeps no state. Each step looks at the mount table and the block daemon first, so a call that
repeats one that was cut off anywhere goes on from where that one ended.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from typing import Final

from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
    UnavailableError,
)
from drystone_csi.contents import Contents
from drystone_csi.devices import Devices
from drystone_csi.model import (
    AccessMode,
    Attached,
    Attacher,
    AttachState,
    FileSystem,
)
from drystone_csi.mounts import Mount, Mounts, make_file, make_folder, remove_point
from drystone_csi.ports import BlockApi, ManagerApi
from drystone_csi.request import DEFAULT_FS, Capability, mkfs_options

XFS_ALWAYS: Final = ("nouuid",)
"""A clone has its origin's UUID, and xfs refuses the second one on a node without this."""


@dataclass(frozen=True, slots=True)
class StageRequest:
    """A checked NodeStageVolume."""

    volume_id: str
    staging: str
    capability: Capability
    mode: AccessMode
    default_fs: FileSystem = DEFAULT_FS
    mkfs_options: str = ""


@dataclass(frozen=True, slots=True)
class PublishRequest:
    """A checked NodePublishVolume."""

    volume_id: str
    staging: str
    target: str
    capability: Capability
    read_only: bool


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes, and inodes when a file system is on it (xfs makes inodes as it needs them)."""

    bytes_total: int
    bytes_used: int | None = None
    bytes_available: int | None = None
    inodes_total: int | None = None
    inodes_used: int | None = None
    inodes_available: int | None = None


class NodeVolumes:
    """The node's work. Callers hold a lock a volume."""

    def __init__(
        self,
        manager: ManagerApi,
        block: BlockApi,
        *,
        devices: Devices,
        mounts: Mounts,
        contents: Contents,
        attacher: Attacher = Attacher.AUTO,
    ) -> None:
        self._manager = manager
        self._block = block
        self._devices = devices
        self._mounts = mounts
        self._contents = contents
        self._attacher = attacher

    async def stage(self, request: StageRequest) -> None:
        """Attach, and for a file system: make it if due, check, mount, grow."""
        device = _device(await self._block.attach(request.volume_id, request.mode, self._attacher))
        if request.capability.block:
            if request.mode is AccessMode.READ_WRITE:
                volume = await self._manager.get_volume(request.volume_id)
                await self._contents.mark_raw(volume)
            return
        number = await self._number(device)
        staged = await self._mounts.at(request.staging)
        if staged is None:
            await self._mount(request, device, number)
        elif staged.number != number:
            raise ConflictError(
                f"{request.staging} holds a mount of {staged.source}, not of {device}",
                code="staging_path_in_use",
                hint="the volume's former device is still mounted: unstage first",
            )
        elif request.capability.fs and staged.fs != request.capability.fs:
            raise AlreadyExistsError(f"the volume is staged with {staged.fs}")

    async def _mount(self, request: StageRequest, device: str, number: str) -> None:
        volume = await self._manager.get_volume(request.volume_id)
        fs = request.capability.fs or request.default_fs
        fs = await self._contents.ensure(
            volume,
            device,
            wanted=request.capability.fs,
            mode=request.mode,
            options=mkfs_options(request.mkfs_options, fs),
            default=request.default_fs,
        )
        writable = request.mode is AccessMode.READ_WRITE
        if writable and not await self._mounts.of_number(number):
            # Never on a mounted or read-only device: fsck would repair what changes under it.
            await self._devices.check(device, fs)
            await self._devices.grow_offline(device, fs, await self._devices.size(device))
        options = [*request.capability.options]
        options += XFS_ALWAYS if fs is FileSystem.XFS else ()
        options += () if writable else ("ro",)
        await make_folder(request.staging)
        await self._mounts.mount(device, request.staging, fs, options)
        if writable and fs is FileSystem.XFS:
            await self._devices.grow_online(device, fs, request.staging)

    async def unstage(self, volume_id: str, staging: str) -> None:
        """Unmount and detach. Refused while something of the volume is still published."""
        await self._mounts.unmount(staging)
        attached = await self._block.attached(volume_id)
        if attached is None:
            return
        if attached.device is not None:
            left = await self._users(attached.device)
            if left:
                raise ConflictError(
                    f"volume {volume_id} is still mounted at {left[0].target}",
                    code="volume_in_use",
                    hint="unpublish it there first",
                )
        await self._block.detach(volume_id)

    async def publish(self, request: PublishRequest) -> None:
        """Show the staged volume to one consumer."""
        attached = await self._block.attached(request.volume_id)
        if attached is None:
            raise _not_staged(request.volume_id)
        device = _device(attached)
        if request.capability.single_publish:
            allowed = {request.target, request.staging}
            others = [m for m in await self._users(device) if m.target not in allowed]
            if others:
                raise ConflictError(
                    f"volume {request.volume_id} is published at {others[0].target} already",
                    code="volume_in_use",
                    hint="its access mode allows one consumer",
                )
        if request.capability.block:
            await self._publish_device(request, attached, device)
        else:
            await self._publish_folder(request, device)

    async def _publish_device(
        self, request: PublishRequest, attached: Attached, device: str
    ) -> None:
        if request.read_only and attached.mode is not AccessMode.READ_ONLY:
            # A read-only mount of a device file does not keep anybody from writing the device.
            raise InvalidArgumentError(
                "a writable raw block device cannot be published read-only",
                hint="use a read-only access mode for the volume",
            )
        if await self._mounts.at(request.target) is None:
            await make_file(request.target)
            await self._mounts.bind(device, request.target, read_only=False)
        elif await self._devices.number(request.target) != await self._devices.number(device):
            raise _target_in_use(request.target)

    async def _publish_folder(self, request: PublishRequest, device: str) -> None:
        staged = await self._mounts.at(request.staging)
        number = await self._number(device)
        if staged is None or staged.number != number:
            raise _not_staged(request.volume_id)
        read_only = request.read_only or staged.read_only
        there = await self._mounts.at(request.target)
        if there is not None:
            if there.number != number:
                raise _target_in_use(request.target)
            if there.read_only and not read_only:
                raise AlreadyExistsError(
                    f"the volume is published read-only at {request.target}",
                    hint="unpublish it first",
                )
            if there.read_only == read_only:
                return
        await make_folder(request.target)
        await self._mounts.bind(request.staging, request.target, read_only=read_only)

    async def unpublish(self, target: str) -> None:
        """Take the volume away from one consumer."""
        await self._mounts.unmount(target)
        await remove_point(target)

    async def usage(self, volume_id: str, path: str) -> Usage:
        """Bytes and inodes of a published or staged volume."""
        attached = await self._block.attached(volume_id)
        there = await self._mounts.at(path)
        if attached is None or attached.device is None or there is None:
            raise NotFoundError(f"volume {volume_id} is not at {path}", code="volume_not_found")
        number = await self._devices.number(attached.device)
        if number is not None and await self._devices.number(path) == number:
            return Usage(bytes_total=attached.size)
        if there.number != _text(number):
            raise NotFoundError(f"{path} is not volume {volume_id}", code="volume_not_found")
        found = await asyncio.to_thread(os.statvfs, path)
        return Usage(
            bytes_total=found.f_blocks * found.f_frsize,
            bytes_used=(found.f_blocks - found.f_bfree) * found.f_frsize,
            bytes_available=found.f_bavail * found.f_frsize,
            inodes_total=found.f_files,
            inodes_used=found.f_files - found.f_ffree,
            inodes_available=found.f_favail,
        )

    async def expand(self, volume_id: str, path: str, size_min: int) -> int:
        """Grow device and file system to the volume's size; gives the device's size."""
        attached = await self._block.attached(volume_id)
        there = await self._mounts.at(path)
        if attached is None or there is None:
            raise NotFoundError(f"volume {volume_id} is not at {path}", code="volume_not_found")
        grown = await self._block.resize(volume_id, size_min)
        device = _device(grown)
        if there.number == await self._number(device):
            await self._devices.grow_online(device, there.fs, path)
        elif await self._devices.number(path) != await self._devices.number(device):
            raise NotFoundError(f"{path} is not volume {volume_id}", code="volume_not_found")
        return grown.size

    async def _users(self, device: str) -> list[Mount]:
        mounts = [*await self._mounts.of_device_file(device)]
        number = await self._devices.number(device)
        if number is not None:
            mounts += await self._mounts.of_number(_text(number))
        return mounts

    async def _number(self, device: str) -> str:
        number = await self._devices.number(device)
        if number is None:
            raise UnavailableError(
                f"{device} is not there, although the volume is attached",
                code="device_missing",
                hint="/dev of the host must be visible to the driver",
            )
        return _text(number)


def _text(number: int | None) -> str:
    """A device number as the mount table writes it."""
    return "" if number is None else f"{os.major(number)}:{os.minor(number)}"


def _device(attached: Attached) -> str:
    if attached.state is AttachState.FENCED:
        raise ConflictError(
            f"volume {attached.volume_id} was taken over by another node: {attached.reason}",
            code="fenced",
            hint="unpublish and unstage it here",
        )
    if attached.device is None:
        raise ConflictError(
            f"volume {attached.volume_id} is attached as an export, without a device",
            code="no_device",
            hint="detach it, then stage it again",
        )
    return attached.device


def _not_staged(volume_id: str) -> ConflictError:
    return ConflictError(f"volume {volume_id} is not staged on this node", code="not_staged")


def _target_in_use(target: str) -> ConflictError:
    return ConflictError(f"{target} holds another mount", code="target_path_in_use")
