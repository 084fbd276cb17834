"""Devices on kernels without nbd and ublk: an own FUSE process and a loop device on its file.

file system -> /dev/loopN (direct I/O, 4096-byte sectors) -> FUSE file -> NBD socket -> block
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Final

from drystone_common.errors import ConflictError, DrystoneError, InvariantError, NotFoundError
from drystone_common.logs import get_logger
from drystone_storaged.attach import sysfs
from drystone_storaged.attach.command import Runner, SystemRunner
from drystone_storaged.attach.fuse_process import FuseProcess
from drystone_storaged.attach.interface import (
    SECTOR_BYTES,
    AttacherKind,
    AttachSpec,
    Device,
    device_busy,
)
from drystone_storaged.attach.loops import LoopDevice

LOSETUP_WAIT_S: Final = 30.0
"""Setting up reads a few blocks, which wait while a server changes over (5 s worst)."""

GROW_WAIT_S: Final = 2.0
"""Looks at a file that is written all the time until one is not in vain: 100 of them, and soon
enough for the call that waits. Then whoever asked asks again."""

_log = get_logger(__name__)

_ID: Final = re.compile(r"[0-9a-f]{16}")


class FuseAttacher:
    """See ``Attacher``. ``state`` is a folder of its own; ``program`` its binary."""

    kind = AttacherKind.FUSE

    def __init__(self, state: Path, program: Path, runner: Runner | None = None) -> None:
        # Resolved: sysfs shows the real path of a loop device's file, and that is compared.
        self._state = state.resolve()
        self._program = program
        self._runner = runner or SystemRunner()

    async def attach(self, spec: AttachSpec) -> Device:
        """See ``Attacher``."""
        adopted = await self.adopt(spec)
        if adopted is not None:
            return adopted
        process = self._process(spec.volume_id)
        # A loop device whose process died answers every request with an error; it is of no
        # use to whoever still holds it, and disappears when that one lets go.
        await self._drop_loop(process)
        # Now, so that a crash before the new device is noted cannot make it pass for that one.
        await asyncio.to_thread(_loop(process).forget)
        await process.start(spec)
        name = await self._make_loop(spec, process)
        return await self._device(spec, name)

    async def adopt(self, spec: AttachSpec) -> Device | None:
        """See ``Attacher``. The process finds the new run of the daemon by itself; it is told
        to drop a connection that may hang on the old one.
        """  # noqa: D205 - two sentences, one thought
        process = self._process(spec.volume_id)
        if await process.stat() is None:
            return None
        await process.command("reconnect")
        return await self._with_loop(spec, process)

    async def found(self) -> tuple[str, ...]:
        """See ``Attacher``."""

        def names() -> list[str]:
            there = self._state.is_dir()
            return sorted(entry.name for entry in self._state.iterdir()) if there else []

        return tuple(name for name in await asyncio.to_thread(names) if _ID.fullmatch(name))

    async def detach(self, volume_id: str, *, force: bool = False) -> None:
        """See ``Attacher``. Dirty pages are written by the kernel before the loop lets go."""
        process = self._process(volume_id)
        name = await asyncio.to_thread(_loop(process).find)
        if (
            name is not None
            and not force
            and await asyncio.to_thread(sysfs.claimed, f"/dev/{name}")
        ):
            raise device_busy(f"/dev/{name}")
        left = await self._drop_loop(process)
        if left is not None and not force:
            # The kernel takes the device away when its last user closes it.
            raise device_busy(f"/dev/{left}")
        await process.quit(force=force)

    async def drop_dead(self) -> tuple[str, ...]:
        """Remove the devices whose process is dead: whoever has one open gets errors only.

        Gives their names.
        """
        dropped = []
        for volume_id in await self.found():
            process = self._process(volume_id)
            name = await asyncio.to_thread(_loop(process).find)
            if name is not None and await process.is_dead():
                await self._drop_loop(process)
                await process.clear()
                dropped.append(name)
        return tuple(dropped)

    async def alive(self, volume_id: str) -> int | None:
        """Process id of the volume's process, None if there is none."""
        stat = await self._process(volume_id).stat()
        pid = stat.get("pid") if stat is not None else None
        return pid if isinstance(pid, int) else None

    async def sweep(self) -> tuple[str, ...]:
        """Clear away what processes left that died, at a start; gives the volumes they served.

        Nothing of a volume stays but a device that somebody has open: it answers errors, is gone
        when that one lets go, and its note stays until then, for the detach that follows.
        """
        lost: list[str] = []
        for volume_id in await self.found():
            try:
                await self._sweep_one(volume_id, lost)
            except DrystoneError as error:
                # The start that this belongs to is that of every volume; a detach tries again.
                _log.warning("fuse_sweep_left", volume=volume_id, reason=str(error))
        return tuple(lost)

    async def _sweep_one(self, volume_id: str, lost: list[str]) -> None:
        process = self._process(volume_id)
        if not await process.is_dead() or await asyncio.to_thread(process.is_young):
            return
        if await asyncio.to_thread(_loop(process).find) is not None:
            lost.append(volume_id)
        left = await self._drop_loop(process)
        await process.clear()
        if left is None:
            await process.remove()

    async def resize(self, volume_id: str, size_bytes: int) -> Device:
        """See ``Attacher``."""
        process = self._process(volume_id)
        name = await asyncio.to_thread(_loop(process).find)
        if name is None:
            raise NotFoundError(f"volume {volume_id} has no device here", code="not_attached")
        await process.command(f"resize {size_bytes}")
        shown = await self._show_size(process, name, size_bytes)
        if shown < size_bytes:
            raise ConflictError(
                f"/dev/{name} shows {shown} bytes after growing to {size_bytes}",
                code="resize_incomplete",
                hint="ask again",
            )
        return Device(volume_id, self.kind, f"/dev/{name}", shown)

    async def _show_size(self, process: FuseProcess, name: str, size_bytes: int) -> int:
        """Have the loop device take the size that its file has now; gives what it shows.

        Kernels before 6.17 take the size of the last look at the file, so one is made each time;
        and they drop what a look found while a write of the same file ends. So once may not do.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + GROW_WAIT_S
        argv = ("losetup", "--set-capacity", f"/dev/{name}")
        while True:
            await asyncio.to_thread(process.file.stat)
            await self._runner.run(argv, timeout_s=LOSETUP_WAIT_S)
            shown = await asyncio.to_thread(sysfs.size_bytes, name)
            if shown >= size_bytes or loop.time() >= end:
                return shown
            await asyncio.sleep(sysfs.POLL_S)

    async def aclose(self) -> None:
        """See ``Attacher``: nothing is watched, the processes reconnect by themselves."""

    def _process(self, volume_id: str) -> FuseProcess:
        if _ID.fullmatch(volume_id) is None:
            raise InvariantError(f"{volume_id!a} is not a checked volume id")
        return FuseProcess(self._state / volume_id, self._program, self._runner)

    async def _with_loop(self, spec: AttachSpec, process: FuseProcess) -> Device:
        """Give the loop device on the process's file, made if a crash came before it."""
        name = await asyncio.to_thread(_loop(process).find)
        if name is None:
            name = await self._make_loop(spec, process)
        return await self._device(spec, name)

    async def _device(self, spec: AttachSpec, name: str) -> Device:
        size = await asyncio.to_thread(sysfs.size_bytes, name)
        if size < spec.size_bytes:
            # The volume grew while the daemon was away.
            return await self.resize(spec.volume_id, spec.size_bytes)
        return Device(spec.volume_id, self.kind, f"/dev/{name}", size)

    async def _make_loop(self, spec: AttachSpec, process: FuseProcess) -> str:
        argv = (
            "losetup",
            "--find",
            "--show",
            # Without it every block would be in the page cache twice, and a flush would have
            # to go through both.
            "--direct-io=on",
            f"--sector-size={SECTOR_BYTES}",
            *(("--read-only",) if spec.read_only else ()),
            "--",
            str(process.file),
        )
        made = await self._runner.run(argv, timeout_s=LOSETUP_WAIT_S)
        name = made.stdout.strip().removeprefix("/dev/")
        await asyncio.to_thread(_loop(process).note, name)
        return name

    async def _drop_loop(self, process: FuseProcess) -> str | None:
        """Detach the loop device; gives its name if somebody keeps it open."""
        name = await asyncio.to_thread(_loop(process).find)
        if name is None:
            return None
        argv = ("losetup", "--detach", f"/dev/{name}")
        await self._runner.run(argv, timeout_s=LOSETUP_WAIT_S)
        return await asyncio.to_thread(_loop(process).find)


def _loop(process: FuseProcess) -> LoopDevice:
    return LoopDevice(process.folder, process.file, mounted=process.mounted)
