"""Names and addresses of a nemesis run, and the lock that lets a machine have only one.

One group is what shares a network namespace and an address, and is cut off together.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.lib.shell import LabError

PREFIX: Final = "dsnem-"  # of every namespace and cable; `down` takes what begins so
BRIDGE: Final = "dsnem0"
NET: Final = "10.199.0"  # not that of the Kubernetes lab: both may run
HOST: Final = f"{NET}.1"  # REST and metrics are asked from here
MTU: Final = 9000  # as in a storage network, and fewer packets for the proxy
NAMESPACES: Final = Path("/run/netns")
LOCK: Final = Path("/run/drystone-nemesis.lock")
ROOT: Final = Path(__file__).resolve().parents[3]

SIZES: Final = (3, 5)  # servers
MANAGERS: Final = 3  # with 5 servers they and etcd live on the first nodes: both can die at once
BLOCKS_MAX: Final = 3
FIRST: Final = {"m": 10, "n": 20, "c": 40}  # group m1 has the address NET.11
BEACON_PORT: Final = 8480
LOCK_POLL_S: Final = 0.2
LOCK_BYTES_MAX: Final = 65536  # a folder for each run that crashed since the last clean end
MARK: Final = "nemesis"  # in a folder that is ours to remove; says whether it is kept


@dataclass(frozen=True, slots=True)
class Lab:
    """Where everything of a run is, and how large it is. ``folder`` must be absolute."""

    folder: Path
    seed: int = 1
    servers: int = 3
    blocks: int = 2

    def __post_init__(self) -> None:
        if self.servers not in SIZES:
            raise LabError(f"a run has 3 or 5 servers, not {self.servers}")
        if not 1 <= self.blocks <= BLOCKS_MAX:
            raise LabError(f"a run has 1 to {BLOCKS_MAX} block daemons, not {self.blocks}")

    @property
    def server_groups(self) -> tuple[str, ...]:
        """Each has a server and a beacon."""
        return tuple(f"n{number}" for number in range(1, self.servers + 1))

    @property
    def manager_groups(self) -> tuple[str, ...]:
        """Each has a manager and a member of etcd."""
        letter = "n" if self.servers > MANAGERS else "m"
        return tuple(f"{letter}{number}" for number in range(1, MANAGERS + 1))

    @property
    def block_groups(self) -> tuple[str, ...]:
        """Each has a block daemon."""
        return tuple(f"c{number}" for number in range(1, self.blocks + 1))

    @property
    def groups(self) -> tuple[str, ...]:
        """All of them, each once."""
        return tuple(dict.fromkeys((*self.manager_groups, *self.server_groups, *self.block_groups)))

    @property
    def pids(self) -> Path:
        """What was started: one file each, with id and start time."""
        return self.folder / "pids"

    @property
    def log(self) -> Path:
        """Logs of all processes."""
        return self.folder / "log"

    @property
    def mark(self) -> Path:
        """Says that the folder is a run's, and whether it stays (``kept``) or goes (``ours``)."""
        return self.folder / MARK

    @property
    def shared(self) -> Path:
        """In memory: pages and sockets. Its path is short, as that of a socket has to be."""
        return Path("/dev/shm") / f"{PREFIX}{hashlib.sha256(bytes(self.folder)).hexdigest()[:8]}"


def address(group: str) -> str:
    """The group's address: ``n2`` has ``10.199.0.22``."""
    try:
        return f"{NET}.{FIRST[group[0]] + int(group[1:])}"
    except (KeyError, ValueError, IndexError) as error:
        raise LabError(f"no group {group!r}: they are m1, n1, c1 and so on") from error


def processes(lab: Lab) -> dict[str, str]:
    """Every process and the group it lives in, in the order in which they may be started."""
    roles = (
        ("etcd", lab.manager_groups), ("manager", lab.manager_groups),
        ("server", lab.server_groups), ("beacon", lab.server_groups), ("block", lab.block_groups),
    )  # fmt: skip
    return {f"{role}-{group}": group for role, groups in roles for group in groups}


def processes_of(lab: Lab, group: str) -> tuple[str, ...]:
    """Those of one group."""
    return tuple(name for name, of in processes(lab).items() if of == group)


def other_of(lab: Lab, group: str) -> str:
    """The block daemon after this one."""
    groups = lab.block_groups
    return groups[(groups.index(group) + 1) % len(groups)]


def namespace(group: str) -> str:
    """Name of its network namespace, and of its cable's end on the host."""
    return f"{PREFIX}{group}"


def from_environment(*, seed: int = 1, servers: int = 3, blocks: int = 2) -> Lab:
    """A run in the folder that DRYSTONE_NEMESIS_DIR names."""
    folder = os.environ.get("DRYSTONE_NEMESIS_DIR", "/tmp/drystone-nemesis")
    return Lab(Path(folder).absolute(), seed, servers, blocks)


@contextmanager
def held(folder: Path, *, wait_s: float = 0.0, path: Path = LOCK) -> Iterator[list[Path]]:
    """Hold the machine's lock for a run in ``folder``; gives the folders of runs that died.

    The file names every folder that may still remember processes; it is removed when none does.
    """
    handle = _locked(path, time.monotonic() + wait_s)
    try:
        died = _folders(os.pread(handle, LOCK_BYTES_MAX, 0))
        all_of_them = list(dict.fromkeys([folder, *died]))
        content = "\n".join([str(os.getpid()), *map(str, all_of_them)]) + "\n"
        os.ftruncate(handle, 0)
        os.pwrite(handle, content.encode(), 0)
        try:
            yield died
        finally:
            if not any(Lab(each).pids.exists() for each in all_of_them):
                path.unlink()
    finally:
        os.close(handle)


def left_behind(path: Path = LOCK) -> list[Path]:
    """Folders of the run that holds the lock or died with it."""
    try:
        return _folders(path.read_bytes())
    except FileNotFoundError:
        return []


def _locked(path: Path, end: float) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_ino == path.stat().st_ino:
                return handle
        # Held, or removed by its holder between opening and locking: then a new file counts.
        said = os.pread(handle, LOCK_BYTES_MAX, 0).decode(errors="replace").split("\n")
        os.close(handle)
        if time.monotonic() > end:
            raise LabError(
                f"a nemesis run has this machine (pid {said[0] or 'unknown'}); let it end first"
            )
        time.sleep(LOCK_POLL_S)


def _folders(content: bytes) -> list[Path]:
    lines = content.decode(errors="replace").split("\n")[1:]
    return [Path(line) for line in lines if line.startswith("/")]
