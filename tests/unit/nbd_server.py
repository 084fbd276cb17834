"""An NBD server in this process, on a unix socket, that can be told to lie, refuse, hang or die."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

READ, WRITE, CLOSE, FLUSH, TRIM = 0, 1, 2, 3, 4
EIO = 5


class NbdServer:
    """Holds ``size`` bytes of memory. Faults are set while it runs:

    ``lie(kind, offset)``: acknowledge this change and do not do it;
    ``errors(kind, offset)``: refuse this request with that number, 0 is none;
    ``hold``: while cleared, requests are taken and not answered.
    """

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.memory = path, bytearray(size)
        self.lie: Callable[[int, int], bool] = lambda kind, offset: False
        self.errors: Callable[[int, int], int] = lambda kind, offset: 0
        self.hold = threading.Event()
        self.hold.set()
        self.requests = 0
        self._lock = threading.Lock()
        self._peers: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ended = False
        self.start()

    @property
    def uri(self) -> str:
        return f"nbd+unix:///v?socket={self.path}"

    def start(self) -> None:
        self._ended = False
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        self._run(self._accept, self._listener)

    def stop(self) -> None:
        """Die: what is open is not answered. ``start`` brings it back with its memory."""
        self._ended = True
        self.hold.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join(30)
        self._threads.clear()

    def cut(self) -> None:
        """Break every connection."""
        for peer in list(self._peers):
            with contextlib.suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, what: Callable[[socket.socket], None], peer: socket.socket) -> None:
        thread = threading.Thread(target=what, args=(peer,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while not self._ended:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            self._peers.add(peer)
            self._run(self._serve, peer)

    def _serve(self, peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError, EOFError):
            self._negotiate(peer)
            while self._one(peer):
                pass
        self._peers.discard(peer)

    def _negotiate(self, peer: socket.socket) -> None:
        peer.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        exactly(peer, 4)
        _, option, length = struct.unpack(">QII", exactly(peer, 16))
        exactly(peer, length)
        reply = struct.pack(">QII", 0x0003E889045565A9, option, 3)
        peer.sendall(reply + struct.pack(">IHQH", 12, 0, len(self.memory), 0x2D))
        peer.sendall(struct.pack(">QIII", 0x0003E889045565A9, option, 1, 0))

    def _one(self, peer: socket.socket) -> bool:
        head = exactly(peer, 28)
        _, _, kind, handle, offset, length = struct.unpack(">IHHQQI", head)
        if kind == CLOSE:
            return False
        data = exactly(peer, length) if kind == WRITE else b""
        self.requests += 1
        self.hold.wait(60)
        if self._ended:
            return False
        error = self.errors(kind, offset)
        answer = b"" if error else self._do(kind, offset, length, data)
        peer.sendall(struct.pack(">IIQ", 0x67446698, error, handle) + answer)
        return True

    def _do(self, kind: int, offset: int, length: int, data: bytes) -> bytes:
        with self._lock:
            if kind == READ:
                return bytes(self.memory[offset : offset + length])
            if kind in {WRITE, TRIM} and not self.lie(kind, offset):
                self.memory[offset : offset + length] = data or bytes(length)
        return b""


def exactly(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = peer.recv(count - len(data))
        if not part:
            raise EOFError
        data += part
    return data
