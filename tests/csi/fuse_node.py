"""A FUSE helper as a node has it: in a container of its own, killed and replaced at will."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from drystone_storaged.attach import sysfs
from drystone_storaged.attach.fuse_process import find_program
from drystone_storaged.attach.interface import AttachSpec, Device
from drystone_storaged.attach.remote import RemoteAttacher
from tests.csi.nbd_peer import wait_for
from tests.e2e.lib.procs import is_running

NEEDED = (
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and loop devices"),
    pytest.mark.skipif(find_program() is None, reason="drystone-fuse is not built"),
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="no /dev/fuse"),
    pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="no loop devices"),
)
"""Marks of tests that attach through FUSE."""


class HelperPod:
    """`drystone fuse-helper` with process and mount namespaces of its own.

    As in a container, everything in it dies with its first process, and its mounts with it. With
    ``contained`` off it runs as a service of the machine does.
    """

    def __init__(
        self, folder: Path, *, state: Path | None = None, stop_wait_s: float = 0.0,
        contained: bool = True,
    ) -> None:  # fmt: skip
        self._contained = contained
        self.state = state or folder / "state"
        self.socket = folder / "run" / "fuse.sock"
        self.mount = folder / "fs"
        self.log = folder / "fuse-helper.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.loops: list[Loop] = []
        self._settings = folder / "fuse.toml"
        self._settings.write_text(
            f'name = "node"\nsocket = "{self.socket}"\nstate_dir = "{self.state}"\n'
            f"stop_wait_s = {stop_wait_s}\n"
        )

    def start(self) -> None:
        """Start, and return when it answers."""
        program = [
            sys.executable, "-m", "drystone_cli", "fuse-helper", "--config", str(self._settings),
        ]  # fmt: skip
        # A container has none of the node's own mounts, so it keeps none of them in being.
        inside = f'umount --lazy "{self.mount}" 2>&-; exec "$@"'
        box = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", inside]
        argv = [*box, "sh", *program] if self._contained else program
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        wait_for(lambda: self.serves() or self.ended(), "the FUSE helper serves")
        assert not self.ended(), self.log.read_text()

    def serves(self) -> bool:
        """Whether somebody listens; the file alone may be of a dead run."""
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(str(self.socket)) == 0

    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def init(self) -> int:
        """The first process of the container, as seen from here."""
        assert self.process is not None
        if not self._contained:
            return self.process.pid
        tasks = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return int(tasks.read_text().split()[0])

    def terminate(self) -> None:
        """As kubelet begins the end of a container."""
        os.kill(self.init(), signal.SIGTERM)

    def wait(self) -> None:
        assert self.process is not None
        self.process.wait(30)
        self.process = None

    def kill(self) -> None:
        """The container is gone at once."""
        if self.process is None:
            return
        if self.process.poll() is None:
            first = self.init()
            self.process.kill()  # --kill-child
            # The last of a container to go, after every process in it.
            wait_for(lambda: not is_running(first), "the helper is gone")
            # Its first thread may be dead a moment before the others, and those hold the socket.
            wait_for(lambda: not self.serves(), "nobody listens")
        self.wait()

    async def attach(self, spec: AttachSpec) -> Device:
        """Attach as a new run of the block daemon, and remember the device for the end."""
        device = await self.client().attach(spec)
        loop = Loop.of(str(device.path))
        if loop not in self.loops:
            self.loops.append(loop)
        return device

    def bound(self) -> list[Loop]:
        """The devices made here that there still are."""
        return [loop for loop in self.loops if loop.bound()]

    def client(self) -> RemoteAttacher:
        """What a block daemon has of it; each run of the daemon has its own."""
        return RemoteAttacher(self.socket)

    def folders(self) -> list[str]:
        """What there is of volumes on disk."""
        home = self.state / "fuse"
        return sorted(entry.name for entry in home.iterdir()) if home.is_dir() else []


@dataclass(frozen=True)
class Loop:
    """What was in a loop device; others of this machine may get the same device later."""

    name: str
    sequence: str | None

    @classmethod
    def of(cls, device: str) -> Loop:
        name = Path(device).name
        return cls(name, sysfs.text(sysfs.SYS_BLOCK / name / "diskseq"))

    def bound(self) -> bool:
        """Whether that is still in it."""
        home = sysfs.SYS_BLOCK / self.name
        return (home / "loop").exists() and sysfs.text(home / "diskseq") == self.sequence
