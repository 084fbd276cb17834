"""The NBD handshake from Python: the kernel takes a socket only after it."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path
from typing import Final

from drystone_common.errors import UnavailableError

HANDSHAKE_WAIT_S: Final = 5.0  # a few messages on one machine
REPLY_BYTES_MAX: Final = 8192  # the protocol's strings end at 4096
REPLIES_MAX: Final = 64  # a server sends a handful; a broken one must not keep us

_MAGIC: Final = 0x4E42444D41474943
_OPTION_MAGIC: Final = 0x49484156454F5054
_REPLY_MAGIC: Final = 0x3E889045565A9
_OPT_GO: Final = 7
_REP_ACK: Final = 1
_REP_INFO: Final = 3
_REP_ERROR: Final = 1 << 31
_FIXED_NEWSTYLE: Final = 1
_INFO_EXPORT_BYTES: Final = 12


async def dial(
    path: Path, export: str, wait_s: float = HANDSHAKE_WAIT_S
) -> tuple[socket.socket, int, int]:
    """Connect and negotiate; gives the blocking socket, the size and the transmission flags."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.setblocking(False)
        async with asyncio.timeout(wait_s):
            await asyncio.get_running_loop().sock_connect(connection, str(path))
            size, flags = await _negotiate(connection, export)
    except (OSError, TimeoutError) as error:
        connection.close()
        raise UnavailableError(f"no NBD export {export!r} at {path}: {error!r}") from error
    except BaseException:
        connection.close()
        raise
    # The kernel uses it with its own idea of waiting.
    connection.setblocking(True)
    return connection, size, flags


async def _negotiate(connection: socket.socket, export: str) -> tuple[int, int]:
    loop = asyncio.get_running_loop()
    magic, option, offered = struct.unpack(">QQH", await _read(connection, 18))
    if (magic, option) != (_MAGIC, _OPTION_MAGIC) or not offered & _FIXED_NEWSTYLE:
        raise UnavailableError("the peer does not speak fixed newstyle NBD", code="not_nbd")
    name = export.encode()
    await loop.sock_sendall(connection, struct.pack(">I", offered & 3))
    go = struct.pack(">QIII", _OPTION_MAGIC, _OPT_GO, 6 + len(name), len(name))
    await loop.sock_sendall(connection, go + name + bytes(2))
    found: tuple[int, int] | None = None
    for _ in range(REPLIES_MAX):
        magic, _, code, length = struct.unpack(">QIII", await _read(connection, 20))
        if magic != _REPLY_MAGIC or length > REPLY_BYTES_MAX:
            break
        data = await _read(connection, length)
        if code & _REP_ERROR:
            shown = data.decode(errors="replace")
            raise UnavailableError(
                f"the NBD server refused {export!r}: {shown}", code="nbd_refused"
            )
        if code == _REP_INFO and len(data) == _INFO_EXPORT_BYTES and data[:2] == bytes(2):
            found = struct.unpack(">QH", data[2:])
        if code == _REP_ACK and found:
            return found
    raise UnavailableError("the NBD server's answers make no sense", code="not_nbd")


async def _read(connection: socket.socket, count: int) -> bytes:
    """Exactly ``count`` bytes and not one more: the next ones are the kernel's."""
    data = b""
    while len(data) < count:
        more = await asyncio.get_running_loop().sock_recv(connection, count - len(data))
        if not more:
            raise UnavailableError("the NBD server closed the connection", code="not_nbd")
        data += more
    return data
