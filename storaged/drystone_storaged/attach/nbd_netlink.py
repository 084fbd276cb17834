"""The kernel's NBD driver over generic netlink: messages and three commands.

The numbers are those of the kernel's interface (``uapi/linux/nbd-netlink.h``).
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final

from pyroute2.netlink import NLA_F_NESTED, NLM_F_ACK, NLM_F_REQUEST, genlmsg, nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import AsyncGenericNetlinkSocket

from drystone_common.errors import DrystoneError, UnavailableError

FAMILY: Final = "nbd"
VERSION: Final = 1
GROUP: Final = "nbd_mc_group"

CONNECT: Final = 1
DISCONNECT: Final = 2
RECONFIGURE: Final = 3
LINK_DEAD: Final = 4

ANSWER_WAIT_S: Final = 10.0  # the driver answers from memory, unless it is out of it
EVENT_BYTES_MAX: Final = 65536  # an event is some sixty bytes; several may come at once

NETLINK_GENERIC: Final = 16
SOL_NETLINK: Final = 270
NETLINK_ADD_MEMBERSHIP: Final = 1
NLMSG_HEADER_BYTES: Final = 16


class NbdMessage(genlmsg):  # type: ignore[misc] # pyroute2 has no types
    """A message of the family, in pyroute2's declarative form."""

    prefix = "NBD_ATTR_"
    nla_map = (
        ("NBD_ATTR_UNSPEC", "none"),
        ("NBD_ATTR_INDEX", "uint32"),
        ("NBD_ATTR_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_BLOCK_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_TIMEOUT", "uint64"),
        ("NBD_ATTR_SERVER_FLAGS", "uint64"),
        ("NBD_ATTR_CLIENT_FLAGS", "uint64"),
        ("NBD_ATTR_SOCKETS", "sockets"),
        ("NBD_ATTR_DEAD_CONN_TIMEOUT", "uint64"),
        ("NBD_ATTR_DEVICE_LIST", "hex"),
        ("NBD_ATTR_BACKEND_IDENTIFIER", "asciiz"),
    )

    class sockets(nla):  # type: ignore[misc] # noqa: N801 - pyroute2 finds it by this name
        """A list of sockets."""

        nla_flags = NLA_F_NESTED
        nla_map = (("NBD_SOCK_ITEM_UNSPEC", "none"), ("NBD_SOCK_ITEM", "item"))

        class item(nla):  # type: ignore[misc] # noqa: N801
            """One socket, by its descriptor in this process."""

            nla_flags = NLA_F_NESTED
            nla_map = (("NBD_SOCK_UNSPEC", "none"), ("NBD_SOCK_FD", "uint32"))


class NetlinkFailedError(DrystoneError):
    """The NBD driver refused a command."""

    default_code = "nbd_refused"


def message(command: int, **attributes: object) -> NbdMessage:
    """Build a command; attributes by their names in lower case without the prefix."""
    built = NbdMessage()
    built["cmd"] = command
    built["version"] = VERSION
    for name, value in attributes.items():
        if value is not None:
            built["attrs"].append([f"NBD_ATTR_{name.upper()}", value])
    return built


def socket_list(descriptors: Sequence[int]) -> dict[str, Any]:
    """The attribute SOCKETS for these descriptors."""
    items = [["NBD_SOCK_ITEM", {"attrs": [["NBD_SOCK_FD", fd]]}] for fd in descriptors]
    return {"attrs": items}


def dead_links(data: bytes) -> list[int]:
    """The device indexes of all LINK_DEAD events in a datagram; other events are not ours."""
    found = []
    while len(data) >= NLMSG_HEADER_BYTES:
        length = int.from_bytes(data[:4], sys.byteorder)
        if length < NLMSG_HEADER_BYTES or length > len(data):
            break
        event = NbdMessage(data[:length])
        event.decode()
        index = event.get_attr("NBD_ATTR_INDEX")
        if event["cmd"] == LINK_DEAD and index is not None:
            found.append(int(index))
        data = data[(length + 3) & ~3 :]
    return found


class NbdControl:
    """The driver's commands and its events. Open it inside the loop that uses it."""

    def __init__(self) -> None:
        self._commands = AsyncGenericNetlinkSocket()
        self._events: socket.socket | None = None

    async def open(self) -> None:
        """Find the family; UnavailableError if the kernel has no such driver."""
        try:
            await self._commands.bind(FAMILY, NbdMessage)
        except NetlinkError as error:
            raise UnavailableError(
                f"this kernel has no NBD driver: {error}",
                code="nbd_missing",
                hint="modprobe nbd, or use the fuse attacher",
            ) from error
        events = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        events.setblocking(False)
        events.bind((0, 0))
        group = self._commands.mcast_groups[GROUP]
        events.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        self._events = events

    async def run(self, command: int, **attributes: object) -> int | None:
        """Run a command; gives the device's index if the answer has one."""
        built = message(command, **attributes)
        try:
            async with asyncio.timeout(ANSWER_WAIT_S):
                answers = [
                    answer
                    async for answer in await self._commands.nlm_request(
                        built,
                        msg_type=self._commands.prid,
                        msg_flags=NLM_F_REQUEST | NLM_F_ACK,
                    )
                ]
        except NetlinkError as error:
            raise NetlinkFailedError(
                f"the NBD driver refused command {command}: {os.strerror(error.code)}",
                details={"errno": error.code},
            ) from error
        indexes = (answer.get_attr("NBD_ATTR_INDEX") for answer in answers)
        return next((int(index) for index in indexes if index is not None), None)

    async def next_dead(self) -> list[int]:
        """Wait for events; the indexes of devices that lost a connection."""
        if self._events is None:
            raise UnavailableError("the NBD control is not open")
        loop = asyncio.get_running_loop()
        return dead_links(await loop.sock_recv(self._events, EVENT_BYTES_MAX))

    def close(self) -> None:
        """Close both sockets. Devices stay."""
        self._commands.close()
        if self._events is not None:
            self._events.close()
            self._events = None
