"""The Controller service: volumes and who may use them. Holds no state."""

# ruff: noqa: N802, ARG002 - names and arguments are those of the interface
from __future__ import annotations

from typing import Final

from google.protobuf.wrappers_pb2 import Int64Value

from drystone_common.errors import (
    AlreadyExistsError,
    DrystoneError,
    InvalidArgumentError,
    NotFoundError,
)
from drystone_common.ids import csi_engine_name
from drystone_csi import request as check
from drystone_csi import sizes, topology
from drystone_csi.intercept import Context
from drystone_csi.locks import VolumeLocks
from drystone_csi.model import AccessMode, FileSystem, Volume
from drystone_csi.ports import ManagerApi
from drystone_csi.proto import csi_pb2, csi_pb2_grpc

PAGE_MAX: Final = 1000
"""Volumes in one answer: about 200 KiB, far below gRPC's 4 MiB for a message."""

NODE_ID_BYTES_MAX: Final = 192  # the CSI specification's limit for a node id

ATTRIBUTE_NAME: Final = "csi.name"
ATTRIBUTE_MKFS: Final = "csi.mkfsOptions"

_RPC: Final = csi_pb2.ControllerServiceCapability.RPC
CAPABILITIES: Final = (
    _RPC.CREATE_DELETE_VOLUME,
    _RPC.PUBLISH_UNPUBLISH_VOLUME,
    _RPC.PUBLISH_READONLY,
    _RPC.LIST_VOLUMES,
    _RPC.GET_CAPACITY,
    _RPC.GET_VOLUME,
    _RPC.EXPAND_VOLUME,
    _RPC.SINGLE_NODE_MULTI_WRITER,
)


class ControllerService(csi_pb2_grpc.ControllerServicer):
    """One instance a process: its locks see all calls."""

    def __init__(self, manager: ManagerApi) -> None:
        self._manager = manager
        self._locks = VolumeLocks()

    async def ControllerGetCapabilities(
        self,
        request: csi_pb2.ControllerGetCapabilitiesRequest,
        context: Context,
    ) -> csi_pb2.ControllerGetCapabilitiesResponse:
        """What is claimed."""
        kind = csi_pb2.ControllerServiceCapability
        found = [kind(rpc=_RPC(type=capability)) for capability in CAPABILITIES]
        return csi_pb2.ControllerGetCapabilitiesResponse(capabilities=found)

    async def CreateVolume(
        self, request: csi_pb2.CreateVolumeRequest, context: Context
    ) -> csi_pb2.CreateVolumeResponse:
        """Make the volume, or find the one that an earlier call made."""
        name = csi_engine_name(check.require(request.name, "name"))
        capabilities = check.capabilities(request.volume_capabilities)
        parameters = check.parameters(request.parameters)
        fs = _file_system(capabilities, parameters.fs)
        if fs and parameters.mkfs_options:
            check.mkfs_options(parameters.mkfs_options, fs)
        if request.HasField("volume_content_source"):
            raise InvalidArgumentError("making a volume from a source is not supported")
        cluster = await self._manager.cluster_uuid()
        topology.check(request.accessibility_requirements, cluster)
        size = sizes.choose(request.capacity_range, fs)
        attributes = {ATTRIBUTE_NAME: request.name}
        if parameters.mkfs_options:
            attributes[ATTRIBUTE_MKFS] = parameters.mkfs_options
        with self._locks.hold(name):
            try:
                volume = await self._manager.create_volume(
                    name, size, parameters.pool, {**parameters.claim, **attributes}
                )
            except AlreadyExistsError as error:
                volume = await self._compatible(name, request, attributes, parameters.pool, error)
            except DrystoneError as error:
                if error.code != "volume_exists":
                    raise
                volume = await self._compatible(name, request, attributes, parameters.pool, error)
        message = _volume(volume, cluster)
        message.volume_context.update(parameters.context())
        return csi_pb2.CreateVolumeResponse(volume=message)

    async def _compatible(
        self,
        name: str,
        request: csi_pb2.CreateVolumeRequest,
        attributes: dict[str, str],
        pool: str | None,
        error: DrystoneError,
    ) -> Volume:
        """Accept the volume that has the name if it is what the request asks for."""
        volume = await self._manager.get_volume(name)
        claim = set(check.PARAMETERS_CLAIM.values())
        kept = {key: value for key, value in volume.attributes.items() if key not in claim}
        same = kept == attributes and pool in {None, volume.pool}
        if same and sizes.fits(volume.size, request.capacity_range):
            return volume
        raise AlreadyExistsError(
            f"volume {request.name!a} exists with {volume.size} bytes in pool {volume.pool}",
            code="volume_exists",
            hint="use another name, or the same size and parameters",
        ) from error

    async def DeleteVolume(
        self, request: csi_pb2.DeleteVolumeRequest, context: Context
    ) -> csi_pb2.DeleteVolumeResponse:
        """Remove it; one that is not there is gone already."""
        check.require(request.volume_id, "volume id")
        try:
            volume_id = await self._id(request.volume_id)
        except NotFoundError:
            return csi_pb2.DeleteVolumeResponse()
        with self._locks.hold(volume_id):
            await self._manager.delete_volume(volume_id)
        return csi_pb2.DeleteVolumeResponse()

    async def ControllerPublishVolume(
        self, request: csi_pb2.ControllerPublishVolumeRequest, context: Context
    ) -> csi_pb2.ControllerPublishVolumeResponse:
        """Let one node use it."""
        check.require(request.volume_id, "volume id")
        node = _node(request.node_id)
        if not request.HasField("volume_capability"):
            raise InvalidArgumentError("volume capability is missing from the request")
        capability = check.capability(request.volume_capability)
        volume_id = await self._id(request.volume_id)
        mode = AccessMode.READ_ONLY if request.readonly else capability.mode
        with self._locks.hold(volume_id):
            await self._manager.publish(volume_id, node, mode)
        return csi_pb2.ControllerPublishVolumeResponse(
            publish_context={check.CONTEXT_MODE: mode.value}
        )

    async def ControllerUnpublishVolume(
        self, request: csi_pb2.ControllerUnpublishVolumeRequest, context: Context
    ) -> csi_pb2.ControllerUnpublishVolumeResponse:
        """Take that back; when this returns the node can write no more."""
        check.require(request.volume_id, "volume id")
        node = _node(request.node_id) if request.node_id else None
        try:
            volume_id = await self._id(request.volume_id)
        except NotFoundError:
            return csi_pb2.ControllerUnpublishVolumeResponse()
        with self._locks.hold(volume_id):
            await self._manager.unpublish(volume_id, node)
        return csi_pb2.ControllerUnpublishVolumeResponse()

    async def ValidateVolumeCapabilities(
        self, request: csi_pb2.ValidateVolumeCapabilitiesRequest, context: Context
    ) -> csi_pb2.ValidateVolumeCapabilitiesResponse:
        """Confirm what is supported; what is not is a message, not an error."""
        check.require(request.volume_id, "volume id")
        if not request.volume_capabilities:
            raise InvalidArgumentError("volume capabilities are missing from the request")
        await self._manager.get_volume(await self._id(request.volume_id))
        answer = csi_pb2.ValidateVolumeCapabilitiesResponse
        try:
            check.capabilities(request.volume_capabilities)
            check.parameters(request.parameters)
        except InvalidArgumentError as error:
            return answer(message=str(error))
        confirmed = answer.Confirmed(
            volume_context=request.volume_context,
            volume_capabilities=request.volume_capabilities,
            parameters=request.parameters,
        )
        return answer(confirmed=confirmed)

    async def ListVolumes(
        self, request: csi_pb2.ListVolumesRequest, context: Context
    ) -> csi_pb2.ListVolumesResponse:
        """A page in the order of ids, so that paging survives creations and deletions."""
        if request.max_entries < 0:
            raise InvalidArgumentError("max_entries is negative")
        limit = min(request.max_entries or PAGE_MAX, PAGE_MAX)
        cluster = await self._manager.cluster_uuid()
        page = await self._manager.list_volumes(limit, request.starting_token or None)
        entry = csi_pb2.ListVolumesResponse.Entry
        return csi_pb2.ListVolumesResponse(
            entries=[entry(volume=_volume(volume, cluster)) for volume in page.volumes],
            next_token=page.next_cursor or "",
        )

    async def ControllerGetVolume(
        self, request: csi_pb2.ControllerGetVolumeRequest, context: Context
    ) -> csi_pb2.ControllerGetVolumeResponse:
        """One volume."""
        check.require(request.volume_id, "volume id")
        volume = await self._manager.get_volume(await self._id(request.volume_id))
        # The status is required by the specification and empty on purpose: the nodes are an
        # optional capability that has to be exact at all times, which it is not claimed to be.
        return csi_pb2.ControllerGetVolumeResponse(
            volume=_volume(volume, await self._manager.cluster_uuid()),
            status=csi_pb2.ControllerGetVolumeResponse.VolumeStatus(),
        )

    async def GetCapacity(
        self, request: csi_pb2.GetCapacityRequest, context: Context
    ) -> csi_pb2.GetCapacityResponse:
        """Room for new volumes; none where the cluster cannot be reached or used."""
        parameters = check.parameters(request.parameters)
        cluster = await self._manager.cluster_uuid()
        reachable = topology.within(request.accessible_topology, cluster)
        try:
            capabilities = [check.capability(item) for item in request.volume_capabilities]
        except InvalidArgumentError:
            reachable, capabilities = False, []
        if not reachable:
            return csi_pb2.GetCapacityResponse(available_capacity=0)
        fs = _file_system(capabilities, parameters.fs) if capabilities else parameters.fs
        capacity = await self._manager.capacity(parameters.pool)
        smallest = sizes.FS_SIZE_MIN[fs] if fs else sizes.GRANULARITY
        return csi_pb2.GetCapacityResponse(
            available_capacity=capacity.available, minimum_volume_size=Int64Value(value=smallest)
        )

    async def ControllerExpandVolume(
        self, request: csi_pb2.ControllerExpandVolumeRequest, context: Context
    ) -> csi_pb2.ControllerExpandVolumeResponse:
        """Grow the record; the node grows device and file system."""
        check.require(request.volume_id, "volume id")
        if not request.HasField("capacity_range") or not request.capacity_range.required_bytes:
            raise InvalidArgumentError("the new size is missing from the request")
        wanted = sizes.choose(request.capacity_range, None)
        volume_id = await self._id(request.volume_id)
        with self._locks.hold(volume_id):
            volume = await self._manager.get_volume(volume_id)
            if volume.size < wanted:
                volume = await self._manager.resize_volume(volume_id, wanted)
        # A raw block device needs the node too: the kernel's device has to be made larger.
        return csi_pb2.ControllerExpandVolumeResponse(
            capacity_bytes=volume.size, node_expansion_required=True
        )

    async def _id(self, text: str) -> str:
        return check.volume_of(text, await self._manager.cluster_uuid())


def _file_system(
    capabilities: tuple[check.Capability, ...] | list[check.Capability],
    default: FileSystem | None,
) -> FileSystem | None:
    """The one file system that the capabilities ask for; None when all are raw block."""
    mounts = [capability for capability in capabilities if not capability.block]
    wanted = {capability.fs or default or check.DEFAULT_FS for capability in mounts}
    if len(wanted) > 1:
        raise InvalidArgumentError("the capabilities ask for two file systems on one volume")
    return wanted.pop() if wanted else None


def _node(node_id: str) -> str:
    check.require(node_id, "node id")
    if len(node_id.encode()) > NODE_ID_BYTES_MAX:
        raise InvalidArgumentError(f"the node id is longer than {NODE_ID_BYTES_MAX} bytes")
    return node_id


def _volume(volume: Volume, cluster: str) -> csi_pb2.Volume:
    return csi_pb2.Volume(
        volume_id=f"{cluster}/{volume.id}",
        capacity_bytes=volume.size,
        accessible_topology=[topology.segment(cluster)],
    )
