"""A block daemon for tests: the real FUSE attacher on nbdkit, without the engine."""

from __future__ import annotations

import subprocess
from pathlib import Path

from drystone_csi.model import Attached, Volume
from drystone_csi.ports import ManagerApi
from drystone_storaged.attach.fuse import FuseAttacher
from drystone_storaged.attach.interface import AttachSpec, Endpoint
from tests.csi.fakes import FakeBlock
from tests.csi.nbd_peer import Server


class AttacherBlock(FakeBlock):
    """Serves each volume by an nbdkit of its own and makes devices as the daemon does."""

    def __init__(self, manager: ManagerApi, folder: Path, program: Path) -> None:
        super().__init__(manager)
        self.folder = folder
        self.attacher = FuseAttacher(folder / "state", program)
        self.servers: dict[str, Server] = {}

    async def make_device(self, volume: Volume) -> str:
        if volume.id not in self.servers:
            home = self.folder / volume.id
            home.mkdir()
            self.servers[volume.id] = Server(home, volume.size)
        server = self.servers[volume.id]
        if server.process is None:
            server.start()
        spec = AttachSpec(volume.id, Endpoint(server.socket, ""), volume.size)
        return str((await self.attacher.attach(spec)).path)

    async def drop_device(self, attached: Attached) -> None:
        await self.attacher.detach(attached.volume_id)
        self.servers[attached.volume_id].kill()

    async def grow_device(self, attached: Attached, size: int) -> None:
        self.servers[attached.volume_id].grow(size)
        await self.attacher.resize(attached.volume_id, size)

    async def clean(self) -> None:
        for volume_id in await self.attacher.found():
            await self.attacher.detach(volume_id, force=True)
        for server in self.servers.values():
            server.kill()


def unmount_below(folder: Path) -> None:
    """Unmount what a test left, innermost first; not the FUSE mounts under the devices."""
    table = Path("/proc/self/mountinfo").read_text().splitlines()
    for line in reversed(table):
        target = line.split()[4]
        if target.startswith(f"{folder}/") and " - fuse" not in line:
            subprocess.run(["umount", target], check=False)
