"""The driver's services in this process, over fakes, called without a socket."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drystone_csi.contents import Contents
from drystone_csi.controller import ControllerService
from drystone_csi.devices import Devices
from drystone_csi.model import Volume
from drystone_csi.mounts import Mounts
from drystone_csi.node import NodeService
from drystone_csi.node_volumes import NodeVolumes
from drystone_csi.proto import csi_pb2
from tests.csi.fakes import CLUSTER, GIB, FakeBlock, FakeHost, FakeManager

NO_CONTEXT: Any = None  # the services look at it only through the interceptor
MODE = csi_pb2.VolumeCapability.AccessMode


def mount(fs: str = "ext4", mode: Any = MODE.SINGLE_NODE_WRITER, flags=()):
    return csi_pb2.VolumeCapability(
        mount=csi_pb2.VolumeCapability.MountVolume(fs_type=fs, mount_flags=flags),
        access_mode=MODE(mode=mode),
    )


def block(mode: Any = MODE.SINGLE_NODE_WRITER):
    return csi_pb2.VolumeCapability(
        block=csi_pb2.VolumeCapability.BlockVolume(), access_mode=MODE(mode=mode)
    )


class NumberedDevices(Devices):
    """Devices whose numbers are made up: ``/dev/fake7`` is 7:7, and a bind shows the same."""

    def __init__(self, host: FakeHost) -> None:
        super().__init__(host)
        self._host = host

    async def number(self, path: str) -> int | None:
        if path.startswith("/dev/fake"):
            return (7 << 8) | int(path.removeprefix("/dev/fake"))
        source = self._host._at(path).get("source", "")
        if source.startswith("devtmpfs[/fake"):
            return (7 << 8) | int(source[14:-1])
        return None


@dataclass
class Driver:
    """All of it; ``restart`` is a new process over the same world."""

    folder: Path
    manager: FakeManager = field(default_factory=FakeManager)
    host: FakeHost = field(default_factory=FakeHost)

    def __post_init__(self) -> None:
        self.block = FakeBlock(self.manager)
        self.restart()

    def restart(self) -> None:
        devices = NumberedDevices(self.host)
        contents = Contents(self.manager, devices)
        mounts = Mounts(self.host)
        volumes = NodeVolumes(
            self.manager, self.block, devices=devices, mounts=mounts, contents=contents
        )
        self.controller = ControllerService(self.manager)  # type: ignore[abstract]
        self.node = NodeService(volumes, self.block)

    @property
    def staging(self) -> str:
        return str(self.folder / "staging")

    @property
    def target(self) -> str:
        return str(self.folder / "pod" / "target")

    async def create(self, name="pvc-1", size=GIB, capability=None, **fields):
        request = csi_pb2.CreateVolumeRequest(
            name=name,
            capacity_range=csi_pb2.CapacityRange(required_bytes=size),
            volume_capabilities=[capability or mount()],
            **fields,
        )
        return (await self.controller.CreateVolume(request, NO_CONTEXT)).volume

    async def publish(self, volume_id, node="block-1", capability=None, *, readonly=False):
        request = csi_pb2.ControllerPublishVolumeRequest(
            volume_id=volume_id,
            node_id=node,
            volume_capability=capability or mount(),
            readonly=readonly,
        )
        answer = await self.controller.ControllerPublishVolume(request, NO_CONTEXT)
        return dict(answer.publish_context)

    async def stage(self, volume, capability=None, context=None):
        request = csi_pb2.NodeStageVolumeRequest(
            volume_id=volume.volume_id,
            staging_target_path=self.staging,
            volume_capability=capability or mount(),
            volume_context=dict(volume.volume_context),
            publish_context=context or {},
        )
        await self.node.NodeStageVolume(request, NO_CONTEXT)

    async def node_publish(self, volume, capability=None, target=None, *, readonly=False):
        request = csi_pb2.NodePublishVolumeRequest(
            volume_id=volume.volume_id,
            staging_target_path=self.staging,
            target_path=target or self.target,
            volume_capability=capability or mount(),
            readonly=readonly,
        )
        await self.node.NodePublishVolume(request, NO_CONTEXT)

    async def node_unpublish(self, volume, target=None):
        request = csi_pb2.NodeUnpublishVolumeRequest(
            volume_id=volume.volume_id, target_path=target or self.target
        )
        await self.node.NodeUnpublishVolume(request, NO_CONTEXT)

    async def unstage(self, volume):
        request = csi_pb2.NodeUnstageVolumeRequest(
            volume_id=volume.volume_id, staging_target_path=self.staging
        )
        await self.node.NodeUnstageVolume(request, NO_CONTEXT)

    async def published(self, capability=None, **create):
        """A volume that is created and published to this node."""
        volume = await self.create(capability=capability, **create)
        context = await self.publish(volume.volume_id, capability=capability)
        assert context == {"mode": context["mode"]}
        return volume

    def record(self, volume) -> Volume:
        return self.manager.volumes[volume.volume_id.removeprefix(f"{CLUSTER}/")]

    @property
    def targets(self) -> list[str]:
        return [row["target"] for row in self.host.table]
