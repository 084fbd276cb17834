"""What the machine itself allows: TCP ping-pong, durable writes to a file, an NBD server of RAM."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.e2e.lib import fio
from tests.e2e.lib.waits import wait_for

PING_BYTES: Final = 64
LISTEN_WAIT_S: Final = 10.0
FILE_BYTES: Final = 256 << 20


def ping_pong_us(seconds: float) -> float:
    """Mean round trip of 64 bytes over loopback TCP, both ends blocking, wherever they run."""
    server = socket.create_server(("127.0.0.1", 0))

    def echo() -> None:
        peer, _ = server.accept()
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with peer:
            while data := peer.recv(PING_BYTES):
                peer.sendall(data)

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    count = 0
    with server, socket.create_connection(server.getsockname()) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began = time.monotonic()
        while (now := time.monotonic()) - began < seconds:
            client.sendall(b"x" * PING_BYTES)
            client.recv(PING_BYTES)
            count += 1
    thread.join(LISTEN_WAIT_S)
    return (now - began) / max(count, 1) * 1e6


def durable_write(folder: Path, seconds: float, depth: int = 1) -> fio.Result:
    """4 KiB O_DIRECT writes to a file, an fdatasync after each (after 32 at depth 32)."""
    path = folder / "floor.img"
    engine = {"ioengine": "io_uring" if depth > 1 else "psync", "filename": str(path)}
    options: dict[str, object] = {
        "rw": "randwrite", "bs": "4k", "iodepth": depth, "size": FILE_BYTES, "direct": 1,
        "fdatasync": depth, "time_based": 1, "runtime": f"{seconds:g}", "norandommap": 1,
    }  # fmt: skip
    try:
        return fio.run(fio.command(engine, options), expected_s=seconds)
    finally:
        path.unlink(missing_ok=True)


class RamNbd:
    """nbdkit's memory plugin over a unix socket: the price of NBD with nothing behind it."""

    name = "nbdkit memory"

    def __init__(self, folder: Path, size: int) -> None:
        self.size = size
        self._socket = folder / "ram.sock"
        self._process = subprocess.Popen(
            ["nbdkit", "-f", "-U", str(self._socket), "memory", str(size)]
        )
        wait_for(self._socket.exists, "nbdkit listens", LISTEN_WAIT_S)

    def target(self) -> dict[str, str]:
        """See ``System``."""
        return {"ioengine": "nbd", "uri": f"nbd+unix:///?socket={self._socket}"}

    def server_pids(self) -> list[int]:
        """See ``System``."""
        return [self._process.pid]

    def client_pids(self) -> list[int]:
        """See ``System``."""
        return []

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait(LISTEN_WAIT_S)


@contextlib.contextmanager
def ram_nbd(folder: Path, size: int) -> Iterator[RamNbd]:
    """Run it while inside."""
    server = RamNbd(folder, size)
    try:
        yield server
    finally:
        server.close()


def machine() -> list[tuple[str, str]]:
    """The machine, for the report."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return [
        ("CPU", f"{len(os.sched_getaffinity(0))} of {model}"),
        ("memory", f"{memory / (1 << 30):.1f} GiB"),
        ("kernel", os.uname().release),
    ]
