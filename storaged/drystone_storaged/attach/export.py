"""No device at all: consumers speak NBD to the export themselves. Works everywhere."""

from __future__ import annotations

from drystone_storaged.attach.interface import AttacherKind, AttachSpec, Device


class ExportAttacher:
    """See ``Attacher``."""

    kind = AttacherKind.EXPORT

    async def attach(self, spec: AttachSpec) -> Device:
        """There is nothing to make."""
        return Device(spec.volume_id, self.kind, None, spec.size_bytes)

    async def adopt(self, spec: AttachSpec) -> Device | None:
        """There is nothing that could have been lost either."""
        return await self.attach(spec)

    async def found(self) -> tuple[str, ...]:
        """Nothing outlives the daemon."""
        return ()

    async def detach(self, volume_id: str, *, force: bool = False) -> None:
        """There is nothing to remove."""

    async def resize(self, volume_id: str, size_bytes: int) -> Device:
        """Consumers see the new size at their next connection."""
        return Device(volume_id, self.kind, None, size_bytes)

    async def aclose(self) -> None:
        """There is nothing to stop."""
