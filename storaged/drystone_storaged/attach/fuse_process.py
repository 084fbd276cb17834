"""The process ``drystone-fuse``: starting it, talking to it, and clearing up after it.

One process a volume, which outlives the block daemon: it holds the FUSE mount under the loop
device, and waits while the daemon is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from drystone_common.errors import ConflictError, DataError, UnavailableError
from drystone_common.processes import is_alive
from drystone_common.sockets import check_socket_path
from drystone_storaged.attach import sysfs
from drystone_storaged.attach.command import Runner
from drystone_storaged.attach.interface import AttachSpec

PROGRAM: Final = "drystone-fuse"

START_WAIT_S: Final = 8.0  # it connects (5 s at most by its own limit) and mounts
QUIT_WAIT_S: Final = 10.0  # it unmounts a file that nobody has open
COMMAND_WAIT_S: Final = 15.0  # a resize makes a connection, with a handshake limit of 5 s
SPAWN_WAIT_S: Final = 5.0  # setsid returns at once
ANSWER_BYTES_MAX: Final = 16384  # an answer is below 1 KiB
UNMOUNT_WAIT_S: Final = 10.0
LISTENER_WAIT_S: Final = 1.0  # a socket with a free place in its queue connects at once

GONE: Final = "fuse_helper_gone"
"""Nobody listens on its socket: it does not run."""

SILENT: Final = "fuse_process_silent"
"""It may run: nothing may be cleared away, and nothing started in its place."""

_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid


class FuseProcess:
    """The process of one volume. Its folder has everything that belongs to it."""

    def __init__(self, folder: Path, program: Path, runner: Runner) -> None:
        self.folder = folder
        self.mount = folder / "mnt"
        self.file = self.mount / "volume"
        self._control = check_socket_path(folder / "control")
        self._log = folder / "helper.log"
        self._program = program
        self._runner = runner

    async def stat(self) -> Mapping[str, object] | None:
        """Its counters, or None if it is not running; ``UnavailableError`` if nobody can tell."""
        try:
            return await self.command("stat")
        except UnavailableError as error:
            if error.code != GONE:
                raise
            return None

    async def is_dead(self) -> bool:
        """Whether it certainly does not run: one that hangs may go on."""
        try:
            return await self.stat() is None
        except UnavailableError:
            return False

    async def command(self, line: str) -> Mapping[str, object]:
        """Run one command; a refusal is ConflictError, no process or answer UnavailableError."""
        try:
            async with asyncio.timeout(COMMAND_WAIT_S):
                reader, writer = await asyncio.open_unix_connection(self._control)
                with contextlib.closing(writer):
                    writer.write(f"{line}\n".encode())
                    await writer.drain()
                    answer = await reader.read(ANSWER_BYTES_MAX)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise UnavailableError(
                f"the FUSE process of {self.folder.name} does not run", code=GONE
            ) from error
        except (OSError, TimeoutError) as error:
            # A busy node, a stopped process, a lack of descriptors: it may serve its file all the
            # while, and a second one beside it would be a second writer of one volume.
            raise UnavailableError(
                f"the FUSE process of {self.folder.name} does not answer: {error!r}",
                code=SILENT,
                hint="ask again; one that hangs for good is killed by a forced detach",
            ) from error
        return _parse(line, answer)

    async def start(self, spec: AttachSpec) -> None:
        """Start it, and return when its file is there."""
        await self.clear()
        await asyncio.to_thread(self._spawn, spec)
        loop = asyncio.get_running_loop()
        end = loop.time() + START_WAIT_S
        while not await self._answers():
            if loop.time() >= end:
                raise UnavailableError(
                    f"the FUSE process did not come up: {self._last_words()}",
                    code="fuse_helper_failed",
                    hint=f"its log is {self._log}",
                )
            await asyncio.sleep(sysfs.POLL_S)

    async def _answers(self) -> bool:
        try:
            return await self.stat() is not None
        except UnavailableError:
            return False

    def _spawn(self, spec: AttachSpec) -> None:
        self.mount.mkdir(mode=0o700, parents=True, exist_ok=True)
        argv = [
            # A session of its own under process 1: it must neither die with the daemon, nor
            # become its zombie, nor get the signals of its terminal.
            "setsid",
            "--fork",
            "--",
            str(self._program),
            "--socket",
            str(spec.endpoint.socket),
            "--export",
            spec.endpoint.export,
            "--mount",
            str(self.mount),
            "--control",
            str(self._control),
            # The engine promises that what was trimmed reads as zeroes.
            "--trim-zeroes",
            *(("--read-only",) if spec.read_only else ()),
        ]
        with self._log.open("wb") as log:
            subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
                timeout=SPAWN_WAIT_S,
            )

    async def quit(self, *, force: bool) -> None:
        """End it. Unless forced it refuses while its file is open."""
        try:
            stat = await self.stat()
        except UnavailableError:
            if not force:
                raise
            # It hangs: the kernel knows whose socket it is.
            stat = {"pid": await asyncio.to_thread(self._listener)}
        if stat is not None and force:
            await self._kill(stat)
        elif stat is not None:
            await self._quit_when_closed()
            await sysfs.until(lambda: not self._control.exists(), "FUSE process ends", QUIT_WAIT_S)
        await self.clear()
        await self.remove()

    async def remove(self) -> None:
        """Remove the folder of a process that is dead and cleared away."""
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)

    def is_young(self) -> bool:
        """Whether it was started so lately that it may not answer yet."""
        try:
            age = time.time() - self._log.stat().st_mtime
        except OSError:
            return False
        # A clock that was set back must not make an old one look young for long.
        return 0 <= age <= START_WAIT_S

    async def _quit_when_closed(self) -> None:
        """The kernel tells the process a moment late that the loop device closed the file."""
        loop = asyncio.get_running_loop()
        end = loop.time() + QUIT_WAIT_S
        while True:
            try:
                await self.command("quit")
            except ConflictError:
                if loop.time() >= end:
                    raise
                await asyncio.sleep(sysfs.POLL_S)
            else:
                return

    async def clear(self) -> None:
        """Remove what a dead process left: its mount, which is broken, and its socket."""
        while await asyncio.to_thread(self.mounted):
            argv = ("umount", "--lazy", "--", str(self.mount))
            await self._runner.run(argv, timeout_s=UNMOUNT_WAIT_S)
        await asyncio.to_thread(self._control.unlink, missing_ok=True)

    async def _kill(self, stat: Mapping[str, object]) -> None:
        pid = stat.get("pid")
        if not isinstance(pid, int) or pid <= 1:
            raise DataError("the FUSE process told no process id", code="bad_answer")
        if not await asyncio.to_thread(self._is_mine, pid):
            raise ConflictError(
                f"the FUSE process of {self.folder.name} lives in another container",
                code="fuse_process_elsewhere",
                hint="set fuse_helper_socket, or close what has the device open and detach again",
            )
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        await sysfs.until(lambda: not is_alive(pid), "FUSE process dies", QUIT_WAIT_S)

    def _listener(self) -> int:
        """The process that listens on the control socket, which needs no answer of it."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(LISTENER_WAIT_S)
            try:
                probe.connect(str(self._control))
                raw = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            except OSError as error:
                raise UnavailableError(
                    f"the FUSE process of {self.folder.name} takes no connection: {error!r}",
                    code=SILENT,
                    hint="ask again",
                ) from error
        return int(_CREDENTIALS.unpack(raw)[0])

    def _is_mine(self, pid: int) -> bool:
        """Whether that number means the same process here: containers count for themselves."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return str(self._control).encode() in words

    def mounted(self) -> bool:
        """Whether its file system is mounted in this mount namespace, served or not."""
        # The table is read as text: a look at the folder itself would hang or fail with the
        # process that serves it. Blanks and the like are escaped in it as octal numbers.
        escaped = str(self.mount).replace("\\", "\\134").replace(" ", "\\040")
        table = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")  # mounts of others
        lines = table.splitlines()
        return any(line.split()[4] == escaped for line in lines)

    def _last_words(self) -> str:
        words = sysfs.text(self._log) or "it said nothing"
        return words[-500:]


def _parse(line: str, answer: bytes) -> Mapping[str, object]:
    try:
        data = json.loads(answer)
    except ValueError as error:
        # It ended, most likely; whether it has is what the next question finds.
        raise UnavailableError(
            f"the FUSE process ended while it answered {line!r}", code=SILENT, hint="ask again"
        ) from error
    if not isinstance(data, dict):
        raise DataError("the FUSE process's answer was not understood", code="bad_answer")
    if not data.get("ok"):
        raise ConflictError(str(data.get("error"))[:1000], code="fuse_helper_refused")
    return data


def find_program() -> Path | None:
    """The program: where ``DRYSTONE_FUSE`` says, else beside Python's, else on PATH."""
    named = os.environ.get("DRYSTONE_FUSE")
    if named:
        return Path(named)
    # An environment's programs lie together, and it may be used without being on PATH.
    beside = Path(sys.executable).parent / PROGRAM
    found = str(beside) if beside.exists() else shutil.which(PROGRAM)
    return Path(found) if found else None
