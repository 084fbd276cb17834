"""The CSI plugin as an orchestrator calls it: over its socket, in the specified order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc

from drystone_csi.proto import csi_pb2, csi_pb2_grpc

CALL_WAIT_S: Final = 120.0  # kubelet's own limit for a stage
RAW: Final = "block"
"""Kind of a volume without a file system; every other kind is the file system's name."""


@dataclass(frozen=True, slots=True)
class CsiVolume:
    """A volume as the plugin named it. ``kind``: ext4, xfs or block."""

    name: str
    kind: str
    volume_id: str
    size: int
    context: dict[str, str]

    @property
    def engine_id(self) -> str:
        """The 16 hex digits that the command line takes too."""
        return self.volume_id.rpartition("/")[2]


def _capability(kind: str) -> csi_pb2.VolumeCapability:
    mode = csi_pb2.VolumeCapability.AccessMode
    access = mode(mode=mode.SINGLE_NODE_WRITER)
    if kind == RAW:
        return csi_pb2.VolumeCapability(
            block=csi_pb2.VolumeCapability.BlockVolume(), access_mode=access
        )
    mount = csi_pb2.VolumeCapability.MountVolume(fs_type=kind)
    return csi_pb2.VolumeCapability(mount=mount, access_mode=access)


class Csi:
    """All services of one socket."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix://{socket}")
        self._identity = csi_pb2_grpc.IdentityStub(self._channel)
        self._controller = csi_pb2_grpc.ControllerStub(self._channel)
        self._node = csi_pb2_grpc.NodeStub(self._channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def driver(self) -> str:
        """Name and version of the plugin."""
        info = self._call(self._identity.GetPluginInfo, csi_pb2.GetPluginInfoRequest())
        return f"{info.name} {info.vendor_version}"

    def node_id(self) -> str:
        """The name under which this node is published to."""
        found = self._call(self._node.NodeGetInfo, csi_pb2.NodeGetInfoRequest())
        return str(found.node_id)

    def create(self, name: str, kind: str, size: int) -> CsiVolume:
        """CreateVolume."""
        request = csi_pb2.CreateVolumeRequest(
            name=name,
            capacity_range=csi_pb2.CapacityRange(required_bytes=size),
            volume_capabilities=[_capability(kind)],
        )
        made = self._call(self._controller.CreateVolume, request).volume
        context = dict(made.volume_context)
        return CsiVolume(name, kind, made.volume_id, made.capacity_bytes, context)

    def publish(self, volume: CsiVolume, node: str, staging: Path, target: Path) -> None:
        """ControllerPublish, NodeStage, NodePublish: afterwards the volume is at ``target``."""
        granted = self._call(
            self._controller.ControllerPublishVolume,
            csi_pb2.ControllerPublishVolumeRequest(
                volume_id=volume.volume_id, node_id=node,
                volume_capability=_capability(volume.kind), volume_context=volume.context,
            ),
        )  # fmt: skip
        staging.mkdir(parents=True, exist_ok=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        fields: dict[str, Any] = {
            "volume_id": volume.volume_id,
            "publish_context": dict(granted.publish_context),
            "staging_target_path": str(staging),
            "volume_capability": _capability(volume.kind),
            "volume_context": volume.context,
        }
        self._call(self._node.NodeStageVolume, csi_pb2.NodeStageVolumeRequest(**fields))
        self._call(
            self._node.NodePublishVolume,
            csi_pb2.NodePublishVolumeRequest(target_path=str(target), **fields),
        )

    def unpublish(self, volume: CsiVolume, node: str, staging: Path, target: Path) -> None:
        """NodeUnpublish, NodeUnstage, ControllerUnpublish."""
        self._call(
            self._node.NodeUnpublishVolume,
            csi_pb2.NodeUnpublishVolumeRequest(volume_id=volume.volume_id, target_path=str(target)),
        )
        self._call(
            self._node.NodeUnstageVolume,
            csi_pb2.NodeUnstageVolumeRequest(
                volume_id=volume.volume_id, staging_target_path=str(staging)
            ),
        )
        request = csi_pb2.ControllerUnpublishVolumeRequest(volume_id=volume.volume_id, node_id=node)
        self._call(self._controller.ControllerUnpublishVolume, request)

    def expand(self, volume: CsiVolume, size: int) -> bool:
        """ControllerExpandVolume; whether the node has something to do as well."""
        request = csi_pb2.ControllerExpandVolumeRequest(
            volume_id=volume.volume_id,
            capacity_range=csi_pb2.CapacityRange(required_bytes=size),
            volume_capability=_capability(volume.kind),
        )
        answer = self._call(self._controller.ControllerExpandVolume, request)
        return bool(answer.node_expansion_required)

    def node_expand(self, volume: CsiVolume, staging: Path, target: Path, size: int) -> None:
        """NodeExpandVolume."""
        request = csi_pb2.NodeExpandVolumeRequest(
            volume_id=volume.volume_id, volume_path=str(target), staging_target_path=str(staging),
            volume_capability=_capability(volume.kind),
            capacity_range=csi_pb2.CapacityRange(required_bytes=size),
        )  # fmt: skip
        self._call(self._node.NodeExpandVolume, request)

    def delete(self, volume: CsiVolume) -> None:
        """DeleteVolume."""
        request = csi_pb2.DeleteVolumeRequest(volume_id=volume.volume_id)
        self._call(self._controller.DeleteVolume, request)

    def _call(self, method: Callable[..., Any], request: Any) -> Any:
        return method(request, timeout=CALL_WAIT_S, wait_for_ready=True)
