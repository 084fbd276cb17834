"""Ceph as a peer: Debian's packages, one monitor, one manager, three BlueStore daemons on files.

No authentication and no client cache: with the cache on, a write is acknowledged before it is
durable, and nothing would be compared.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from drystone_storaged.local.ports import pick
from tests.e2e.lib.waits import wait_for

PACKAGES: Final = ("ceph-mon", "ceph-mgr", "ceph-osd", "ceph-common")
PROGRAMS: Final = ("ceph-mon", "ceph-mgr", "ceph-osd", "ceph", "rbd", "monmaptool")
COMMAND_WAIT_S: Final = 120.0
HEALTHY_WAIT_S: Final = 180.0
OSDS: Final = 3
PGS: Final = 32  # what its own documents advise for three small daemons
OSD_MEMORY: Final = 1 << 30  # above its floor; three of them fit beside everything else
STOP_WAIT_S: Final = 20.0


class PeerMissingError(Exception):
    """The peer cannot run here; the text says what to install."""


def available() -> None:
    """Raise unless every program is there."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        raise PeerMissingError(
            f"{', '.join(missing)} not found; as root: apt-get install {' '.join(PACKAGES)}"
        )


class Ceph:
    """A running cluster with one image."""

    name = "ceph"

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        self._folder = folder
        self._conf = folder / "ceph.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._fsid = str(uuid.uuid4())

    def target(self) -> dict[str, str]:
        """See ``System``."""
        return {
            "ioengine": "rbd", "pool": "bench", "rbdname": "image", "clientname": "admin",
        }  # fmt: skip

    def version(self) -> str:
        """Version line of the daemons."""
        return self._run("ceph-osd", "--version").split("(")[0].strip()

    def server_pids(self) -> list[int]:
        """See ``System``: the daemons that hold copies."""
        return [p.pid for name, p in self._daemons.items() if name.startswith("osd")]

    def client_pids(self) -> list[int]:
        """See ``System``: the client is a library inside fio."""
        return []

    def start(self) -> None:
        """Make and start everything, and the image."""
        # Ceph's own range, so that its messengers of both versions stay apart from others.
        (port,) = pick(1, ())
        self._write_conf(port)
        self._monitor(port)
        for name in ("mon", "mgr", *(f"osd.{n}" for n in range(OSDS))):
            (self._folder / name).mkdir(exist_ok=True)
        self._spawn("mgr", "ceph-mgr", "-i", "x")
        for number in range(OSDS):
            self._osd(number)
        self._ceph("config", "set", "mon", "mon_allow_pool_delete", "true")
        self._ceph("osd", "pool", "create", "bench", str(PGS))
        wait_for(self._active, "every placement group of Ceph active", HEALTHY_WAIT_S, poll_s=1.0)
        self._run("rbd", "pool", "init", "bench")
        self._run("rbd", "create", "bench/image", "--size", f"{self.size >> 20}M")

    def stop(self) -> None:
        """End every daemon; the folder goes with the caller."""
        for process in reversed(self._daemons.values()):
            process.terminate()
        end = time.monotonic() + STOP_WAIT_S
        for process in self._daemons.values():
            try:
                process.wait(max(0.1, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(STOP_WAIT_S)

    def _write_conf(self, port: int) -> None:
        lines = {
            "fsid": self._fsid, "mon host": f"v2:127.0.0.1:{port}/0", "public addr": "127.0.0.1",
            "auth cluster required": "none", "auth service required": "none",
            "auth client required": "none", "osd pool default size": str(OSDS),
            "osd pool default min size": "2", "osd crush chooseleaf type": "0",
            "osd objectstore": "bluestore", "bluestore block size": str(self.size * 4 + (8 << 30)),
            "osd memory target": str(OSD_MEMORY), "rbd cache": "false",
            "osd pool default pg autoscale mode": "off", "ms bind ipv6": "false",
            "mon data": f"{self._folder}/mon", "mgr data": f"{self._folder}/mgr",
            "osd data": f"{self._folder}/osd.$id", "run dir": str(self._folder),
            "log file": f"{self._folder}/$name.log", "pid file": f"{self._folder}/$name.pid",
            "admin socket": f"{self._folder}/$name.asok",
            "crash dir": str(self._folder), "keyring": f"{self._folder}/keyring",
        }  # fmt: skip
        text = "".join(f"{name} = {value}\n" for name, value in lines.items())
        self._conf.write_text(f"[global]\n{text}")
        (self._folder / "keyring").touch()
        os.environ["CEPH_CONF"] = str(self._conf)  # fio's engine finds it there

    def _monitor(self, port: int) -> None:
        monmap = self._folder / "monmap"
        address = f"[v2:127.0.0.1:{port}/0]"
        self._run(
            "monmaptool", "--create", "--addv", "a", address, "--fsid", self._fsid, str(monmap)
        )
        (self._folder / "mon").mkdir()
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", str(monmap))
        self._spawn("mon", "ceph-mon", "-i", "a")
        self._ceph("mon", "stat")

    def _osd(self, number: int) -> None:
        made = str(uuid.uuid4())
        self._ceph("osd", "new", made, str(number))
        self._run("ceph-osd", "-i", str(number), "--mkfs", "--osd-uuid", made)
        self._spawn(f"osd.{number}", "ceph-osd", "-i", str(number))

    def _active(self) -> bool:
        found = self._ceph("pg", "stat")
        return f"{PGS} active+clean" in found or f"{PGS + 1} active+clean" in found

    def _ceph(self, *words: str) -> str:
        return self._run("ceph", "--connect-timeout", "60", *words)

    def _run(self, program: str, *words: str) -> str:
        done = subprocess.run(
            [program, "-c", str(self._conf), *words] if program != "monmaptool" else
            [program, *words],
            capture_output=True, text=True, check=False, timeout=COMMAND_WAIT_S,
        )  # fmt: skip
        if done.returncode:
            raise PeerMissingError(f"{program} {' '.join(words)}: {done.stderr.strip()[-1000:]}")
        return done.stdout

    def _spawn(self, name: str, *argv: str) -> None:
        output = (self._folder / f"{name}.out").open("wb")
        self._daemons[name] = subprocess.Popen(
            [*argv, "-c", str(self._conf), "-f"], stdout=output, stderr=output
        )
        output.close()


@contextmanager
def ceph_cluster(size: int) -> Iterator[Ceph]:
    """Run it while inside, in a folder of its own."""
    available()
    folder = Path(tempfile.mkdtemp(prefix="drystone-ceph-"))
    peer = Ceph(folder, size)
    try:
        peer.start()
        yield peer
    finally:
        peer.stop()
        os.environ.pop("CEPH_CONF", None)
        shutil.rmtree(folder, ignore_errors=True)
