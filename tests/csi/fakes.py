"""In-memory stand-ins for what the driver talks to: the manager, the block daemon, the tools."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path

from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
)
from drystone_csi.model import (
    AccessMode,
    Attached,
    Attacher,
    AttachState,
    BlockInfo,
    BlockStats,
    Capacity,
    Content,
    Publication,
    Volume,
    VolumePage,
)
from drystone_csi.ports import ManagerApi
from drystone_storaged.attach.command import Completed, SystemRunner, expect

CLUSTER = "11111111-2222-3333-4444-555555555555"
GIB = 1 << 30


class FakeManager:
    """Keeps volumes in a dict and applies the rules that the management API promises."""

    def __init__(self, nodes: Sequence[str] = ("block-1", "block-2")) -> None:
        self.volumes: dict[str, Volume] = {}
        self.nodes = set(nodes)
        self.available = 1 << 40
        self.up = True
        self.calls: list[str] = []
        self._ids = itertools.count(1)

    async def cluster_uuid(self) -> str:
        return CLUSTER

    async def healthy(self) -> bool:
        return self.up

    async def create_volume(self, name, size, pool, attributes) -> Volume:
        self.calls.append("create")
        for volume in self.volumes.values():
            if volume.name == name:
                if (volume.size, dict(volume.attributes)) == (size, dict(attributes)):
                    return volume
                raise AlreadyExistsError("the name is taken", code="volume_exists")
        if pool not in {None, "default"}:
            raise NotFoundError(f"no pool {pool}", code="pool_not_found")
        volume = Volume(
            f"{next(self._ids):016x}", name, size, pool or "default", attributes=dict(attributes)
        )
        self.volumes[volume.id] = volume
        return volume

    async def get_volume(self, id_or_name: str) -> Volume:
        for volume in self.volumes.values():
            if id_or_name in {volume.id, volume.name}:
                return volume
        raise NotFoundError(f"no volume {id_or_name}", code="volume_not_found")

    async def list_volumes(self, limit: int, cursor: str | None) -> VolumePage:
        if cursor is not None and not re.fullmatch("[0-9a-f]{16}", cursor):
            raise InvalidArgumentError("not a cursor", code="invalid_cursor")
        later = [self.volumes[key] for key in sorted(self.volumes) if key > (cursor or "")]
        page = tuple(later[:limit])
        return VolumePage(page, page[-1].id if len(later) > limit else None)

    async def delete_volume(self, volume_id: str) -> None:
        volume = self.volumes.get(volume_id)
        if volume is not None and volume.publications:
            raise ConflictError("it is published", code="volume_in_use")
        self.volumes.pop(volume_id, None)

    async def resize_volume(self, volume_id: str, size: int) -> Volume:
        return self._change(await self.get_volume(volume_id), size=size)

    async def capacity(self, pool: str | None) -> Capacity:
        return Capacity(total=self.available * 2, available=self.available)

    async def publish(self, volume_id: str, node: str, mode: AccessMode) -> None:
        volume = await self.get_volume(volume_id)
        if node not in self.nodes:
            raise NotFoundError(f"no node {node}", code="node_not_found")
        for there in volume.publications:
            if there.node == node and there.mode == mode:
                return
            if there.node == node:
                raise ConflictError("other mode", code="volume_mode_conflict")
            if AccessMode.READ_WRITE in {mode, there.mode}:
                raise ConflictError("elsewhere", code="volume_published_elsewhere")
        self._change(volume, publications=(*volume.publications, Publication(node, mode)))

    async def unpublish(self, volume_id: str, node: str | None) -> None:
        volume = self.volumes.get(volume_id)
        if volume is not None:
            left = tuple(p for p in volume.publications if node is not None and p.node != node)
            self._change(volume, publications=left)

    async def set_content(self, volume_id: str, expect: Content, to: Content) -> None:
        self.calls.append(f"content {expect.state}->{to.state}")
        volume = await self.get_volume(volume_id)
        if volume.content not in {expect, to}:
            raise ConflictError("content changed", code="content_conflict")
        self._change(volume, content=to)

    def _change(self, volume: Volume, **changes) -> Volume:
        self.volumes[volume.id] = dataclasses.replace(volume, **changes)
        return self.volumes[volume.id]


class FakeBlock:
    """Attaches by making up a device; subclasses make real ones."""

    def __init__(self, manager: ManagerApi, node: str = "block-1") -> None:
        self.manager = manager
        self.node = node
        self.attachments: dict[str, Attached] = {}
        self.ready = True

    async def info(self) -> BlockInfo:
        return BlockInfo(self.node, await self.manager.cluster_uuid(), self.ready)

    async def attach(self, volume_id: str, mode: AccessMode, attacher: Attacher) -> Attached:
        if volume_id not in self.attachments:
            volume = await self.manager.get_volume(volume_id)
            if not any(p.node == self.node and p.mode == mode for p in volume.publications):
                raise ConflictError("not published to this node", code="not_published")
            device = await self.make_device(volume)
            self.attachments[volume_id] = Attached(
                volume_id,
                mode,
                Attacher.FUSE,
                AttachState.ACTIVE,
                1,
                volume.size,
                device,
                f"nbd+unix:///{volume_id}",
            )
        return self.attachments[volume_id]

    async def detach(self, volume_id: str, *, force: bool = False) -> None:
        attached = self.attachments.pop(volume_id, None)
        if attached is not None:
            await self.drop_device(attached)

    async def attached(self, volume_id: str) -> Attached | None:
        return self.attachments.get(volume_id)

    async def list(self) -> tuple[Attached, ...]:
        return tuple(self.attachments.values())

    async def resize(self, volume_id: str, size_min: int) -> Attached:
        volume = await self.manager.get_volume(volume_id)
        if volume.size < size_min:
            raise InvalidArgumentError("the volume is smaller", code="size_out_of_range")
        await self.grow_device(self.attachments[volume_id], volume.size)
        grown = dataclasses.replace(self.attachments[volume_id], size=volume.size)
        self.attachments[volume_id] = grown
        return grown

    async def stats(self, volume_id: str) -> BlockStats:
        return BlockStats(0, 0, 0, 0, 0, 0)

    async def make_device(self, volume: Volume) -> str:
        return f"/dev/fake{int(volume.id, 16)}"

    async def drop_device(self, attached: Attached) -> None:
        return None

    async def grow_device(self, attached: Attached, size: int) -> None:
        return None


class LoopBlock(FakeBlock):
    """Devices are loop devices over sparse files: everything above is real. Needs root."""

    def __init__(self, manager: ManagerApi, folder: Path, node: str = "block-1") -> None:
        super().__init__(manager, node)
        self.folder = folder
        self.run = SystemRunner().run

    async def make_device(self, volume: Volume) -> str:
        image = self.folder / f"{volume.id}.img"
        with image.open("ab") as file:
            file.truncate(volume.size)
        argv = ("losetup", "-f", "--show", "--sector-size", "4096", "--", str(image))
        return (await self.run(argv, timeout_s=10)).stdout.strip()

    async def drop_device(self, attached: Attached) -> None:
        await self.run(("losetup", "-d", str(attached.device)), timeout_s=10)
        (self.folder / f"{attached.volume_id}.img").unlink()

    async def grow_device(self, attached: Attached, size: int) -> None:
        with (self.folder / f"{attached.volume_id}.img").open("ab") as file:
            file.truncate(size)
        await self.run(("losetup", "-c", str(attached.device)), timeout_s=10)


class Crash(BaseException):
    """The driver died here."""


class FakeHost:
    """A host for the driver: interprets its tools on a mount table and disks in memory.

    ``crash_at`` counts tool runs; when it is reached the tool has done its work and the driver
    dies before it sees that, once.
    """

    def __init__(self) -> None:
        self.disks: dict[str, str] = {}  # device -> what blkid would say
        self.used: set[str] = set()  # devices whose file system was mounted
        self.table: list[dict[str, str]] = []
        self.log: list[str] = []
        self.fails: dict[str, Completed] = {}
        self.crash_at: int | None = None
        self.hold: asyncio.Event | None = None  # mounts wait for it, and say so in ``held``
        self.held = asyncio.Event()

    async def run(
        self, argv: Sequence[str], *, timeout_s: float, codes: Sequence[int] = (0,)
    ) -> Completed:
        words = list(argv)
        if words[0] == "setpriv":
            words = words[4:]
        if self.hold is not None and words[0] == "mount":
            self.held.set()
            await self.hold.wait()
        self.log.append(" ".join(words))
        result = self.fails.get(words[0]) or self._tool(words[0].replace(".", "_"), words[1:])
        if self.crash_at is not None:
            self.crash_at -= 1
            if self.crash_at < 0:
                self.crash_at = None
                raise Crash
        return expect(argv, result, codes)

    def ran(self, tool: str) -> list[str]:
        return [line for line in self.log if line.split()[0] == tool]

    def _tool(self, name: str, words: list[str]) -> Completed:
        handler = getattr(self, f"_{name}", None)
        out = handler(words) if handler else ""
        return out if isinstance(out, Completed) else Completed(0, out, "")

    def _blkid(self, words):
        kind = self.disks.get(words[-1])
        return f"TYPE={kind}\n" if kind else Completed(2, "", "")

    def _mkfs_ext4(self, words):
        self.disks[words[-1]] = "ext4"
        self.used.discard(words[-1])

    def _mkfs_xfs(self, words):
        self.disks[words[-1]] = "xfs"
        self.used.discard(words[-1])

    def _dumpe2fs(self, words):
        count = int(words[-1] in self.used)
        mounted = f"Last mount time:          n/a\nMount count:              {count}\n"
        return f"Block count:              262144\nBlock size:               4096\n{mounted}"

    def _xfs_db(self, words):
        return f"lsn = {'0x100000002' if words[-1] in self.used else '0'}\n"

    def _blockdev(self, words):
        return f"{GIB}\n"

    def _findmnt(self, words):
        if not self.table:
            return Completed(1, "", "")
        return json.dumps({"filesystems": self.table})

    def _umount(self, words):
        rows = [row for row in self.table if row["target"] == words[-1]]
        if not rows:
            return Completed(32, "", "not mounted")
        self.table.remove(rows[-1])
        return ""

    def _mount(self, words):
        source, target = words[-2:]
        options = words[words.index("-o") + 1] if "-o" in words else ""
        if options == "remount,bind,ro":
            self._at(target)["options"] = "ro"
            return ""
        if "--bind" in words:
            origin = self._at(source)
            row = dict(origin) if origin else self._device_row(source)
            self.table.append({**row, "target": target})
            return ""
        if self.disks.get(source) != words[words.index("-t") + 1]:
            return Completed(32, "", "wrong fs type")
        number = f"7:{source.removeprefix('/dev/fake')}"
        fs = self.disks[source]
        self.used.add(source)
        self.table.append(
            {
                "target": target,
                "source": source,
                "fstype": fs,
                "options": options or "rw",
                "maj:min": number,
            }
        )
        return ""

    def _at(self, target: str) -> dict[str, str]:
        rows = [row for row in self.table if row["target"] == target]
        return rows[-1] if rows else {}

    def _device_row(self, device: str) -> dict[str, str]:
        source = f"devtmpfs[/{device.removeprefix('/dev/')}]"
        return {"source": source, "fstype": "devtmpfs", "options": "rw", "maj:min": "0:6"}
