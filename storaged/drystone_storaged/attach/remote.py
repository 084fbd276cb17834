"""FUSE devices that another process of this node makes and holds: `drystone fuse-helper`.

In Kubernetes every process of a pod dies with its container. The processes that serve mounted
volumes therefore live in a pod of their own, and the block daemon's may be replaced at will.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import Final

from drystone_common.errors import (
    DataError,
    DeadlineError,
    DrystoneError,
    UnavailableError,
    error_from_dict,
)
from drystone_common.sockets import check_socket_path
from drystone_storaged.attach import wire
from drystone_storaged.attach.interface import AttacherKind, AttachSpec, Device

CALL_WAIT_S: Final = 60.0
"""A device may wait for servers that change over. Callers repeat: the helper goes on by itself,
and the repeated call finds what it did."""


class RemoteAttacher:
    """See ``Attacher``. ``socket`` is the helper's."""

    kind = AttacherKind.FUSE

    def __init__(self, socket: Path, wait_s: float = CALL_WAIT_S) -> None:
        self._socket = check_socket_path(socket)
        self._wait_s = wait_s

    async def attach(self, spec: AttachSpec) -> Device:
        """See ``Attacher``."""
        answer = await self._call("attach", wire.spec_fields(spec))
        return _made(wire.device_of(answer, spec.volume_id))

    async def adopt(self, spec: AttachSpec) -> Device | None:
        """See ``Attacher``."""
        return wire.device_of(await self._call("adopt", wire.spec_fields(spec)), spec.volume_id)

    async def found(self) -> tuple[str, ...]:
        """See ``Attacher``."""
        volumes = (await self._call("found", {})).get("volumes")
        if not isinstance(volumes, list):
            raise DataError("the FUSE helper named no volumes", code="bad_message")
        return tuple(str(volume) for volume in volumes)

    async def detach(self, volume_id: str, *, force: bool = False) -> None:
        """See ``Attacher``."""
        await self._call("detach", {"volume": volume_id, "force": force})

    async def resize(self, volume_id: str, size_bytes: int) -> Device:
        """See ``Attacher``."""
        answer = await self._call("resize", {"volume": volume_id, "size_bytes": size_bytes})
        return _made(wire.device_of(answer, volume_id))

    async def aclose(self) -> None:
        """See ``Attacher``: no connection outlives its call."""

    async def _call(self, call: str, fields: wire.Json) -> wire.Json:
        line = wire.encode({"call": call, **fields})
        try:
            async with asyncio.timeout(self._wait_s):
                answer = await self._exchange(line)
        except TimeoutError as error:
            raise DeadlineError(
                f"the FUSE helper did not answer in {self._wait_s:.0f} s",
                code="fuse_helper_slow",
                hint="ask again; it goes on",
            ) from error
        except (OSError, ValueError) as error:
            raise _away(self._socket, repr(error)) from error
        if not answer:
            raise _away(self._socket, "it ended in the middle of a call")
        return _checked(wire.decode(answer))

    async def _exchange(self, line: bytes) -> bytes:
        reader, writer = await asyncio.open_unix_connection(
            self._socket, limit=wire.ANSWER_BYTES_MAX
        )
        with contextlib.closing(writer):
            writer.write(line)
            await writer.drain()
            return await reader.readline()


def _checked(answer: wire.Json) -> wire.Json:
    if answer.get("ok") is True:
        return answer
    error = answer.get("error")
    raise error_from_dict(error if isinstance(error, dict) else {})


def _made(device: Device | None) -> Device:
    if device is None:
        raise DataError("the FUSE helper named no device", code="bad_message")
    return device


def _away(socket: Path, reason: str) -> DrystoneError:
    return UnavailableError(
        f"no FUSE helper at {socket}: {reason}",
        code="fuse_helper_away",
        hint="start `drystone fuse-helper` on this node; devices that exist go on without it",
    )
