"""A small synchronous NBD client: one request at a time, reconnects and repeats like a kernel's.

Or does not repeat, for who must know what became of each request. Only what tests and the
demonstration need; numbers are those of the NBD protocol document.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import Final
from urllib.parse import parse_qs, unquote, urlsplit

SOCKET_TIMEOUT_S: Final = 60.0
"""A write waits while servers change over; a minute without an answer is a failure."""

RECONNECT_S: Final = 30.0  # a block daemon that is started again is back within seconds
RECONNECT_PAUSE_S: Final = 0.05
REPLY_DATA_MAX: Final = 1 << 25  # far above what is asked for here

_MAGIC, _OPTION = b"NBDMAGIC", b"IHAVEOPT"
_REPLY_MAGIC: Final = 0x0003E889045565A9
_OPT_GO, _REP_ACK, _REP_INFO, _INFO_EXPORT = 7, 1, 3, 0
_REQUEST, _SIMPLE = 0x25609513, 0x67446698
_READ, _WRITE, _CLOSE, _FLUSH, _TRIM = 0, 1, 2, 3, 4
_FUA: Final = 1
_ESHUTDOWN: Final = 108  # "ask my successor": not an error of the volume


class NbdRefusedError(OSError):
    """The server answered with an error; ``errno`` says which."""


class NbdLostError(ConnectionError):
    """The connection was lost with a request open: nobody knows whether it was done."""


def parse_uri(uri: str) -> tuple[str, str]:
    """Split ``nbd+unix:///NAME?socket=PATH`` into path and name."""
    parts = urlsplit(uri)
    if parts.scheme != "nbd+unix":
        raise ValueError(f"not an NBD address on a unix socket: {uri}")
    return parse_qs(parts.query)["socket"][0], unquote(parts.path.lstrip("/"))


class Nbd:
    """One connection to one export. Requests that a lost connection left open are sent again.

    Without ``resend`` they end with ``NbdLostError``, and a connection is only made by ``ready``.
    """

    def __init__(
        self,
        uri: str,
        *,
        reconnect_s: float = RECONNECT_S,
        resend: bool = True,
        timeout_s: float = SOCKET_TIMEOUT_S,
    ) -> None:
        self._path, self._name = parse_uri(uri)
        self._reconnect_s = reconnect_s
        self._resend = resend
        self._timeout_s = timeout_s
        self._socket: socket.socket | None = None
        self._retired = False
        self._handle = 0
        self.size = 0
        self.reconnects = 0
        if resend:
            self.ready()

    def ready(self) -> bool:
        """Connect unless there is a connection; whether one had to be made."""
        if self._socket is not None:
            return False
        self._again(time.monotonic() + self._reconnect_s)
        return True

    def abandon(self) -> None:
        """Break the connection from another thread: the open request ends as a lost one."""
        held = self._socket
        if held is not None:
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    def retire(self) -> None:
        """Like ``abandon``, and make no connection any more."""
        self._retired = True
        self.abandon()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the volume."""
        return self._request(_READ, offset, length)

    def write(self, offset: int, data: bytes, *, fua: bool = True) -> None:
        """Write and return when it is durable; without ``fua`` when it is acknowledged."""
        self._request(_WRITE, offset, len(data), data, flags=_FUA if fua else 0)

    def flush(self) -> None:
        """Return when everything acknowledged is durable."""
        self._request(_FLUSH, 0, 0)

    def trim(self, offset: int, length: int) -> None:
        """Give the space back."""
        self._request(_TRIM, offset, length)

    def close(self) -> None:
        """Say good-bye, if there is anybody to say it to."""
        if self._socket is None:
            return
        with contextlib.suppress(OSError):
            self._socket.sendall(struct.pack(">IHHQQI", _REQUEST, 0, _CLOSE, 0, 0, 0))
        self._drop()

    def _request(
        self, kind: int, offset: int, length: int, data: bytes = b"", flags: int = 0
    ) -> bytes:
        if not self._resend:
            return self._only_once(kind, offset, length, data, flags)
        deadline = time.monotonic() + self._timeout_s
        while True:
            try:
                return self._once(kind, offset, length, data, flags)
            except NbdRefusedError as error:
                if error.errno != _ESHUTDOWN:
                    raise
            except (ConnectionError, EOFError):
                pass
            self._drop()
            self.reconnects += 1
            self._again(min(deadline, time.monotonic() + self._reconnect_s))

    def _only_once(self, kind: int, offset: int, length: int, data: bytes, flags: int) -> bytes:
        try:
            return self._once(kind, offset, length, data, flags)
        except NbdRefusedError as error:
            if error.errno == _ESHUTDOWN:
                self._drop()
            raise
        except (OSError, EOFError) as error:
            self._drop()
            raise NbdLostError(f"request {kind} at {offset}: {error}") from error

    def _once(self, kind: int, offset: int, length: int, data: bytes, flags: int) -> bytes:
        if self._socket is None:
            raise ConnectionError("not connected")
        self._handle += 1
        head = struct.pack(">IHHQQI", _REQUEST, flags, kind, self._handle, offset, length)
        self._socket.sendall(head + data)
        magic, error, handle = struct.unpack(">IIQ", self._exactly(16))
        if magic != _SIMPLE or handle != self._handle:
            raise ConnectionError(f"reply {magic:#x} for {handle}, not for {self._handle}")
        if error:
            raise NbdRefusedError(error, f"NBD error {error} for {kind} at {offset}")
        return self._exactly(length) if kind == _READ else b""

    def _again(self, deadline: float) -> None:
        while True:
            try:
                self._connect()
            except (OSError, EOFError) as error:
                self._drop()
                if self._retired or time.monotonic() > deadline:
                    raise ConnectionError(f"no NBD server at {self._path}: {error}") from error
                time.sleep(RECONNECT_PAUSE_S)
            else:
                return

    def _connect(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(self._timeout_s)
        self._socket.connect(self._path)
        if self._retired:  # it may have been before there was anything to break
            raise ConnectionError("retired")
        if self._exactly(16) != _MAGIC + _OPTION:
            raise ConnectionError("not a newstyle NBD server")
        (server_flags,) = struct.unpack(">H", self._exactly(2))
        self._socket.sendall(struct.pack(">I", server_flags & 3))
        name = self._name.encode()
        body = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self._socket.sendall(_OPTION + struct.pack(">II", _OPT_GO, len(body)) + body)
        while True:
            magic, _, kind, length = struct.unpack(">QIII", self._exactly(20))
            if magic != _REPLY_MAGIC or length > REPLY_DATA_MAX:
                raise ConnectionError("a damaged option reply")
            data = self._exactly(length)
            if kind == _REP_ACK:
                return
            if kind != _REP_INFO:
                raise ConnectionError(f"export {self._name} is refused: {kind:#x} {data!r}")
            if struct.unpack(">H", data[:2])[0] == _INFO_EXPORT:
                (self.size,) = struct.unpack(">Q", data[2:10])

    def _exactly(self, count: int) -> bytes:
        if self._socket is None:
            raise ConnectionError("not connected")
        parts = []
        while count:
            part = self._socket.recv(min(count, 1 << 20))
            if not part:
                raise EOFError("the server closed the connection")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def _drop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
