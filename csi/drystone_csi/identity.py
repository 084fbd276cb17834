"""The Identity service: who the driver is, and whether it can work right now."""

# ruff: noqa: N802, ARG002 - names and arguments are those of the interface
from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from google.protobuf.wrappers_pb2 import BoolValue

from drystone_common import __version__
from drystone_csi.intercept import Context
from drystone_csi.proto import csi_pb2, csi_pb2_grpc

DRIVER_NAME: Final = "csi.drystone.io"

Ready = Callable[[], Awaitable[bool]]


class IdentityService(csi_pb2_grpc.IdentityServicer):
    """``ready`` is asked at each probe: the manager's health, the block daemon's, or both."""

    def __init__(self, ready: Ready, *, controller: bool) -> None:
        self._ready = ready
        self._controller = controller

    async def GetPluginInfo(
        self, request: csi_pb2.GetPluginInfoRequest, context: Context
    ) -> csi_pb2.GetPluginInfoResponse:
        """Name and version."""
        return csi_pb2.GetPluginInfoResponse(name=DRIVER_NAME, vendor_version=__version__)

    async def GetPluginCapabilities(
        self, request: csi_pb2.GetPluginCapabilitiesRequest, context: Context
    ) -> csi_pb2.GetPluginCapabilitiesResponse:
        """What exists at all: topology and online growth, and a controller beside the node."""
        service = csi_pb2.PluginCapability.Service
        expansion = csi_pb2.PluginCapability.VolumeExpansion
        kinds = [service.VOLUME_ACCESSIBILITY_CONSTRAINTS]
        if self._controller:
            kinds.append(service.CONTROLLER_SERVICE)
        found = [csi_pb2.PluginCapability(service=service(type=kind)) for kind in kinds]
        found.append(csi_pb2.PluginCapability(volume_expansion=expansion(type=expansion.ONLINE)))
        return csi_pb2.GetPluginCapabilitiesResponse(capabilities=found)

    async def Probe(self, request: csi_pb2.ProbeRequest, context: Context) -> csi_pb2.ProbeResponse:
        """Whether a call made now could succeed."""
        return csi_pb2.ProbeResponse(ready=BoolValue(value=await self._ready()))
