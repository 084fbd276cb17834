"""Facts of this machine. Nothing is loaded, made or changed; what cannot be read is None."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from drystone_cli.doctor import net
from drystone_cli.doctor.facts import ABSENT, AVAILABLE, KUBELET_DIR, LOADED, MODULES, NodeFacts

SHARED: Final = "shared:"

_IO_URING_SETUP: Final = 425  # the same on every architecture since Linux 5.1
_URING_PARAMS_BYTES: Final = 120
_TIMEX_BYTES: Final = 208
_TIME_ERROR: Final = 5  # adjtimex(2): the clock is not synchronized


def gather(
    node: str = "",
    *,
    kubelet_dir: str = KUBELET_DIR,
    peers: Iterable[net.Peer] = (),
    names: Iterable[str] = (),
    ports: bool = True,
    address: str = "",
) -> NodeFacts:
    """Look at this machine."""
    memory = _memory()
    interface, mtu = net.interface(address)
    return NodeFacts(
        node=node or platform.node(),
        root=os.geteuid() == 0,
        kernel=platform.release(),
        io_uring=_io_uring(),
        modules={name: module(name) for name in MODULES},
        fuse_device=Path("/dev/fuse").exists(),
        loop_control=Path("/dev/loop-control").exists(),
        cgroup=_cgroup(),
        memory_total=memory.get("MemTotal"),
        memory_available=memory.get("MemAvailable"),
        hugepages=memory.get("Hugetlb"),
        kubelet_dir=kubelet_dir,
        kubelet_shared=_kubelet_shared(kubelet_dir),
        ports=net.listening(net.PORTS) if ports else {},
        clock_synchronized=_clock_synchronized(),
        interface=interface,
        mtu=mtu,
        peers={peer.host: net.look(peer, mtu) for peer in peers},
        names={name: net.resolves(name) for name in names},
        # Last: whoever asked compares it with the moment of our answer.
        clock=time.time(),
    )


def module(name: str, root: Path = Path("/")) -> str | None:
    """Whether a kernel module is there; None = its folder is not to be seen from here."""
    if (root / "sys/module" / name).exists():
        return LOADED
    folder = root / "lib/modules" / platform.release()
    try:
        builtin = (folder / "modules.builtin").read_text(errors="replace")
        others = (folder / "modules.dep").read_text(errors="replace")
    except OSError:
        return None
    if f"/{name}.ko" in builtin:
        return LOADED
    return AVAILABLE if f"/{name}.ko" in others else ABSENT


def shared(mountinfo: str, folder: str) -> bool | None:
    """Whether the mount that a folder is in is a shared one (proc(5), mountinfo)."""
    best: tuple[int, bool] | None = None
    for line in mountinfo.splitlines():
        words = line.split(" ")
        if "-" not in words:
            continue
        point = words[4].replace("\\040", " ")
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and (best is None or len(point) >= best[0]):
            tags = words[6 : words.index("-")]
            best = (len(point), any(tag.startswith(SHARED) for tag in tags))
    return best[1] if best else None


def _kubelet_shared(folder: str) -> bool | None:
    # Process 1 is the machine's, or that of this container, whose own mounts count then.
    try:
        if not Path("/proc/1/root", folder.lstrip("/")).is_dir():
            return None
        return shared(Path("/proc/1/mountinfo").read_text(errors="replace"), folder)
    except OSError:
        return None


def _memory() -> dict[str, int]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.replace(":", "").split() for line in lines]
    return {words[0]: int(words[1]) << 10 for words in pairs if words[-1] == "kB"}


def _cgroup() -> int | None:
    if Path("/sys/fs/cgroup/cgroup.controllers").exists():
        return 2
    return 1 if Path("/sys/fs/cgroup").is_dir() else None


def _io_uring() -> bool | None:
    """Whether a ring can be made; it is closed at once."""
    params = ctypes.create_string_buffer(_URING_PARAMS_BYTES)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.syscall(_IO_URING_SETUP, 1, params)
    if descriptor >= 0:
        os.close(descriptor)
        return True
    refused = (errno.ENOSYS, errno.EPERM, errno.EACCES)
    return False if ctypes.get_errno() in refused else None


def _clock_synchronized() -> bool | None:
    """From the kernel: only a program that sets the clock clears its flag."""
    buffer = ctypes.create_string_buffer(_TIMEX_BYTES)  # all zeros: only look
    state = ctypes.CDLL(None, use_errno=True).adjtimex(buffer)
    return None if state < 0 else state != _TIME_ERROR
