"""The Node service: checks requests, takes the volume's lock, and hands over to ``NodeVolumes``."""

# ruff: noqa: N802, ARG002 - names and arguments are those of the interface
from __future__ import annotations

import asyncio
import time
from typing import Final

from drystone_common.errors import ConflictError, InvalidArgumentError, UnavailableError
from drystone_csi import request as check
from drystone_csi import topology
from drystone_csi.intercept import Context
from drystone_csi.locks import VolumeLocks
from drystone_csi.model import AccessMode, BlockInfo
from drystone_csi.mounts import absolute, published
from drystone_csi.node_volumes import NodeVolumes, PublishRequest, StageRequest, Usage
from drystone_csi.ports import BlockApi
from drystone_csi.proto import csi_pb2, csi_pb2_grpc

_RPC: Final = csi_pb2.NodeServiceCapability.RPC
# Kubelet waits for two minutes; half of that leaves it the time to ask once more.
INFO_WAIT_S: Final = 60.0
INFO_POLL_S: Final = 0.25
MODES: Final = frozenset(mode.value for mode in AccessMode)
CAPABILITIES: Final = (
    _RPC.STAGE_UNSTAGE_VOLUME,
    _RPC.GET_VOLUME_STATS,
    _RPC.EXPAND_VOLUME,
    _RPC.SINGLE_NODE_MULTI_WRITER,
)


class NodeService(csi_pb2_grpc.NodeServicer):
    """One instance a process: its locks see all calls."""

    def __init__(self, volumes: NodeVolumes, block: BlockApi) -> None:
        self._volumes = volumes
        self._block = block
        self._locks = VolumeLocks()
        self._cluster: str | None = None

    async def NodeGetCapabilities(
        self, request: csi_pb2.NodeGetCapabilitiesRequest, context: Context
    ) -> csi_pb2.NodeGetCapabilitiesResponse:
        """What is claimed."""
        kind = csi_pb2.NodeServiceCapability
        found = [kind(rpc=_RPC(type=capability)) for capability in CAPABILITIES]
        return csi_pb2.NodeGetCapabilitiesResponse(capabilities=found)

    async def NodeGetInfo(
        self, request: csi_pb2.NodeGetInfoRequest, context: Context
    ) -> csi_pb2.NodeGetInfoResponse:
        """The name that the block daemon registered under, and the cluster it reaches.

        A block daemon that is not there yet is waited for: when a node boots both start at once,
        and kubelet answers a refusal by restarting the registrar, each time later.
        """
        info = await self._known_block()
        # No limit of volumes: loop and nbd devices are made as they are needed.
        return csi_pb2.NodeGetInfoResponse(
            node_id=info.node, accessible_topology=topology.segment(info.cluster_uuid)
        )

    async def _known_block(self) -> BlockInfo:
        end = time.monotonic() + INFO_WAIT_S
        while True:
            try:
                return await self._block.info()
            except UnavailableError:
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(INFO_POLL_S)

    async def NodeStageVolume(
        self, request: csi_pb2.NodeStageVolumeRequest, context: Context
    ) -> csi_pb2.NodeStageVolumeResponse:
        """Attach the volume and make its file system ready."""
        check.require(request.volume_id, "volume id")
        staging = absolute(request.staging_target_path, "staging target path")
        capability = self._capability(request)
        stage = StageRequest(
            volume_id=await self._id(request.volume_id),
            staging=staging,
            capability=capability,
            mode=_mode(request.publish_context.get(check.CONTEXT_MODE), capability),
            default_fs=check.file_system(request.volume_context.get(check.CONTEXT_FS, ""))
            or check.DEFAULT_FS,
            mkfs_options=request.volume_context.get(check.CONTEXT_MKFS, ""),
        )
        with self._locks.hold(stage.volume_id):
            await self._volumes.stage(stage)
        return csi_pb2.NodeStageVolumeResponse()

    async def NodeUnstageVolume(
        self, request: csi_pb2.NodeUnstageVolumeRequest, context: Context
    ) -> csi_pb2.NodeUnstageVolumeResponse:
        """Unmount and detach."""
        check.require(request.volume_id, "volume id")
        staging = absolute(request.staging_target_path, "staging target path")
        volume_id = await self._id(request.volume_id)
        with self._locks.hold(volume_id):
            await self._volumes.unstage(volume_id, staging)
        return csi_pb2.NodeUnstageVolumeResponse()

    async def NodePublishVolume(
        self, request: csi_pb2.NodePublishVolumeRequest, context: Context
    ) -> csi_pb2.NodePublishVolumeResponse:
        """Show it to a consumer."""
        check.require(request.volume_id, "volume id")
        target = absolute(request.target_path, "target path")
        capability = self._capability(request)
        if not request.staging_target_path:
            raise ConflictError("staging target path is missing: the volume is not staged")
        publish = PublishRequest(
            volume_id=await self._id(request.volume_id),
            staging=absolute(request.staging_target_path, "staging target path"),
            target=target,
            capability=capability,
            read_only=request.readonly,
        )
        with self._locks.hold(publish.volume_id):
            await self._volumes.publish(publish)
        return csi_pb2.NodePublishVolumeResponse()

    async def NodeUnpublishVolume(
        self, request: csi_pb2.NodeUnpublishVolumeRequest, context: Context
    ) -> csi_pb2.NodeUnpublishVolumeResponse:
        """Take it away from a consumer."""
        check.require(request.volume_id, "volume id")
        target = absolute(request.target_path, "target path")
        volume_id = await self._id(request.volume_id)
        with self._locks.hold(volume_id):
            await self._volumes.unpublish(target)
        return csi_pb2.NodeUnpublishVolumeResponse()

    async def NodeGetVolumeStats(
        self, request: csi_pb2.NodeGetVolumeStatsRequest, context: Context
    ) -> csi_pb2.NodeGetVolumeStatsResponse:
        """Bytes and inodes."""
        check.require(request.volume_id, "volume id")
        path = published(request.volume_path)
        volume_id = await self._id(request.volume_id)
        # A lock of its own: asking must not hold off an unpublish, and one hanging question
        # must not become many.
        with self._locks.hold(f"usage of {volume_id}"):
            usage = await self._volumes.usage(volume_id, path)
        return csi_pb2.NodeGetVolumeStatsResponse(usage=_usage(usage))

    async def NodeExpandVolume(
        self, request: csi_pb2.NodeExpandVolumeRequest, context: Context
    ) -> csi_pb2.NodeExpandVolumeResponse:
        """Grow device and file system."""
        check.require(request.volume_id, "volume id")
        path = published(request.volume_path)
        wanted = request.capacity_range
        if wanted.required_bytes < 0 or wanted.limit_bytes < 0:
            raise InvalidArgumentError("the capacity range is negative")
        volume_id = await self._id(request.volume_id)
        with self._locks.hold(volume_id):
            size = await self._volumes.expand(volume_id, path, wanted.required_bytes)
        return csi_pb2.NodeExpandVolumeResponse(capacity_bytes=size)

    def _capability(
        self, request: csi_pb2.NodeStageVolumeRequest | csi_pb2.NodePublishVolumeRequest
    ) -> check.Capability:
        if not request.HasField("volume_capability"):
            raise InvalidArgumentError("volume capability is missing from the request")
        return check.capability(request.volume_capability)

    async def _id(self, text: str) -> str:
        """The engine's id. The cluster is asked once: it never changes while we run."""
        if self._cluster is None:
            self._cluster = (await self._block.info()).cluster_uuid
        return check.volume_of(text, self._cluster)


def _mode(published: str | None, capability: check.Capability) -> AccessMode:
    """What the controller granted, else what the capability implies."""
    if not published:
        return capability.mode
    if published not in MODES:
        raise InvalidArgumentError(f"publish context has an unknown mode {published[:20]!a}")
    return AccessMode(published)


def _usage(usage: Usage) -> list[csi_pb2.VolumeUsage]:
    unit = csi_pb2.VolumeUsage
    found = [
        unit(
            unit=unit.BYTES,
            total=usage.bytes_total,
            used=usage.bytes_used or 0,
            available=usage.bytes_available or 0,
        )
    ]
    if usage.inodes_total is not None:
        found.append(
            unit(
                unit=unit.INODES,
                total=usage.inodes_total,
                used=usage.inodes_used or 0,
                available=usage.inodes_available or 0,
            )
        )
    return found
