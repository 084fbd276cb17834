"""Ports, paths and names, as seen from this machine."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from drystone_cli.doctor.facts import FREE
from drystone_common.errors import InvalidArgumentError

PORTS: Final = (
    *(("tcp", port) for port in range(8470, 8482)),  # a node's drives: twelve slots
    ("udp", 8480),  # beacons
    *(("tcp", port) for port in range(8490, 8494)),  # metrics
)
CONNECT_S: Final = 2.0  # a node in the same network answers in milliseconds
ECHO_S: Final = 1.0
ECHO_TRIES: Final = 2  # one packet may be lost anywhere

_MTU_DISCOVER: Final = 10  # IP_MTU_DISCOVER
_PROBE: Final = 3  # IP_PMTUDISC_PROBE: never cut, whatever the kernel thinks of the path
_ECHO: Final = 8
_HEADERS: Final = 28  # IPv4 and ICMP
_LISTEN: Final = "0A"  # state of /proc/net/tcp


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node, and ports that should answer there."""

    host: str
    ports: tuple[int, ...] = ()


def parse_peer(text: str) -> Peer:
    """``HOST`` or ``HOST:PORT,PORT``; an IPv6 address with ports stands in brackets."""
    host, colon, rest = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):
        return Peer(text.strip("[]"))
    try:
        return Peer(host.strip("[]"), tuple(int(port) for port in rest.split(",")))
    except ValueError as error:
        raise InvalidArgumentError(
            f"{text!a} is not a peer", hint="write it like 10.0.0.2:8470,8471"
        ) from error


def look(peer: Peer, mtu: int | None) -> dict[str, Any]:
    """What of a peer can be reached from here."""
    return {
        "whole": whole(peer.host, mtu),
        "ports": {str(port): answers(peer.host, port) for port in peer.ports},
    }


def answers(host: str, port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection((host, port), CONNECT_S).close()
    except OSError:
        return False
    return True


def resolves(name: str) -> bool:
    """Whether a host name is found."""
    try:
        socket.getaddrinfo(name, None)
    except OSError:
        return False
    return True


def interface(address: str = "") -> tuple[str | None, int | None]:
    """Name and MTU of the interface with an address; without one, of that of the default route."""
    try:
        names = [name for _, name in socket.if_nameindex()]
        wanted = address or _own_address()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            found = next((n for n in names if _address(probe, n) == wanted), None)
        mtu = int(Path(f"/sys/class/net/{found}/mtu").read_text()) if found else None
    except (OSError, ValueError):
        return None, None
    return found, mtu


def _own_address() -> str:
    """Ours on the way out; nothing is sent for it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # an address that nobody has (RFC 5737)
        return str(probe.getsockname()[0])


def _address(probe: socket.socket, name: str) -> str | None:
    import fcntl  # noqa: PLC0415 - only here

    siocgifaddr = 0x8915
    request = struct.pack("256s", name.encode()[:15])
    try:
        return socket.inet_ntoa(fcntl.ioctl(probe.fileno(), siocgifaddr, request)[20:24])
    except OSError:
        return None


def whole(host: str, mtu: int | None) -> bool | None:
    """Whether packets of the full size arrive; None = echoes are not answered or not allowed."""
    if mtu is None or not _echo(host, 56):
        return None
    return _echo(host, mtu - _HEADERS)


def _echo(host: str, size: int) -> bool | None:
    """Send an echo of a size that may not be cut; None = not allowed."""
    try:
        sock = _icmp()
    except OSError:
        return None
    with sock:
        sock.setsockopt(socket.IPPROTO_IP, _MTU_DISCOVER, _PROBE)
        for sequence in range(1, ECHO_TRIES + 1):
            mark = os.urandom(8)
            body = mark + bytes(max(size - len(mark), 0))
            try:
                sock.sendto(_packet(sequence, body), (host, 0))
            except OSError as error:
                # The kernel refuses what is larger than the interface, or than a router told.
                return False if error.errno == errno.EMSGSIZE else None
            if _answered(sock, mark, time.monotonic() + ECHO_S):
                return True
    return False


def _icmp() -> socket.socket:
    try:
        return socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
    except PermissionError:
        return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)


def _packet(sequence: int, body: bytes) -> bytes:
    identity = os.getpid() & 0xFFFF
    head = struct.pack("!BBHHH", _ECHO, 0, 0, identity, sequence)
    data = head + body + (b"\0" if len(body) % 2 else b"")
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    return struct.pack("!BBHHH", _ECHO, 0, checksum, identity, sequence) + body


def _answered(sock: socket.socket, mark: bytes, until: float) -> bool:
    while (left := until - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            found = sock.recv(65536)
        except OSError:
            return False
        # A raw socket sees our own request on loopback too: an answer has type 0.
        start = 20 if found[:1] == b"\x45" else 0
        if mark in found and found[start] == 0:
            return True
    return False


def listening(ports: Iterable[tuple[str, int]]) -> dict[str, str]:
    """Who has each port: ``free``, a program's name, or ``?``."""
    found: dict[str, str] = {}
    for protocol, port in ports:
        found[f"{protocol} {port}"] = FREE if _free(protocol, port) else _holder(protocol, port)
    return found


def _free(protocol: str, port: int) -> bool:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as sock:
        if protocol == "tcp":
            # Connections that have ended do not count, whoever listens does.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind(("", port))
        except OSError as error:
            return error.errno != errno.EADDRINUSE
    return True


def _holder(protocol: str, port: int) -> str:
    inodes = {
        inode
        for table in (protocol, f"{protocol}6")
        for inode in _inodes(Path(f"/proc/net/{table}"), port, listens=protocol == "tcp")
    }
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and inodes & _sockets(folder):
            with contextlib.suppress(OSError):
                words = (folder / "cmdline").read_bytes().split(b"\0")
                name = (folder / "comm").read_text().strip()
                ours = any(b"drystone" in word for word in words)
                return f"{name} (drystone)" if ours else f"{name}, process {folder.name}"
    return "?"


def _inodes(table: Path, port: int, *, listens: bool) -> set[str]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return set()
    words = [line.split() for line in lines]
    return {
        w[9]
        for w in words
        if int(w[1].rpartition(":")[2], 16) == port and (not listens or w[3] == _LISTEN)
    }


def _sockets(process: Path) -> set[str]:
    found: set[str] = set()
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(link.readlink())
                if target.startswith("socket:["):
                    found.add(target[8:-1])
    return found


def by_host(addresses: Iterable[str]) -> Mapping[str, tuple[int, ...]]:
    """``host:port`` texts, gathered by host."""
    found: dict[str, list[int]] = {}
    for address in addresses:
        host, colon, port = address.rpartition(":")
        if colon and port.isdigit():
            found.setdefault(host.strip("[]"), []).append(int(port))
    return {host: tuple(sorted(ports)) for host, ports in found.items()}
