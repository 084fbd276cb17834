"""Who speaks to a real cluster without belonging to it: raw datagrams, handshakes and calls."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import grpc
import httpx

import drystone_native
from drystone_storaged.local.layout import Layout
from drystone_storaged.manager.control.credentials import Credentials, Peer
from drystone_storaged.proto import control_pb2, control_pb2_grpc
from tests.e2e.lib.cluster import Cluster
from tests.e2e.lib.waits import wait_for

DEADLINE_S: Final = 90.0  # for what takes seconds on a quiet machine
HELLO_BYTES: Final = 128
WELCOME: Final = 0
Address = tuple[str, int]


def digest(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def role_key(master: bytes, role: str, uuid: bytes, epoch: int) -> bytes:
    return digest(master, role.encode(), b"\0", uuid, struct.pack("<I", epoch))


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """As a beacon sends it, with nothing heard."""

    node: bytes
    boot: int = 1
    seq: int = 1
    key_epoch: int = 1

    def sealed(self, master: bytes) -> bytes:
        head = struct.pack("<4sBI16sQQ", b"DSDB", 1, self.key_epoch, self.node, self.boot, self.seq)
        body = head + struct.pack("<QQQH", 0, 0, 0, 0)
        return body + digest(role_key(master, "beacon", self.node, self.key_epoch), body)


@dataclass(frozen=True, slots=True)
class Hello:
    """The connecting side of a handshake, as honest or as wrong as its fields."""

    cluster: bytes
    uuid: bytes
    key: bytes
    role: int = 1
    key_epoch: int = 1
    versions: tuple[int, int] = (1, 1)
    nonce: bytes = b"n" * 32

    def challenge(self) -> bytes:
        body = struct.pack("<HHB16s16sI32s", *self.versions, self.role, self.cluster, self.uuid,
                           self.key_epoch, self.nonce)  # fmt: skip
        return framed(1, body)

    def proof(self, answer: bytes) -> bytes:
        """Of the answer to the challenge."""
        chosen, server, nonce, _ = struct.unpack_from("<H16s32s32s", answer, 8)
        said = (
            b"client\0", struct.pack("<HHHB", *self.versions, chosen, self.role), self.uuid,
            self.cluster, struct.pack("<I", self.key_epoch), server, self.nonce, nonce,
        )  # fmt: skip
        return framed(3, digest(self.key, *said))


def framed(kind: int, body: bytes) -> bytes:
    return (b"DRYH" + struct.pack("<BBH", 1, kind, 0) + body).ljust(HELLO_BYTES, b"\0")


def exchange(address: Address, *messages: bytes | Callable[[bytes], bytes]) -> list[bytes]:
    """Send each message and take its answer; a message may follow from the answer before."""
    answers: list[bytes] = []
    with socket.create_connection(address, timeout=30) as peer:
        for message in messages:
            sent = message(answers[-1]) if callable(message) else message
            try:
                peer.sendall(sent)
                answers.append(_exactly(peer, HELLO_BYTES))
            except ConnectionError:
                answers.append(b"")
            if not answers[-1]:
                break
    return answers


def _exactly(peer: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (part := peer.recv(count - len(data))):
        data += part
    return data


def verdict(answer: bytes) -> int | None:
    """The code of a verdict; None where the other side just hung up or goes on."""
    return answer[8] if len(answer) == HELLO_BYTES and answer[5] == 4 else None


def code_of(error: Any) -> str:
    """The stable code of a call that ended with an error."""
    found: dict[str, str] = dict(error.trailing_metadata())
    return found["drystone-code"]


def pick(datagrams: Iterator[bytes], node: bytes) -> bytes:
    """The next heartbeat of a node among recorded packets."""
    return next(d for d in datagrams if d[9:25] == node)


@contextmanager
def recorded(to: Address) -> Iterator[Iterator[bytes]]:
    """Every datagram that arrives at an address of this machine, as an eavesdropper has it."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP) as tap:
        tap.settimeout(30)

        def packets() -> Iterator[bytes]:
            while True:
                packet = tap.recv(1 << 16)
                start = (packet[0] & 15) * 4
                (port,) = struct.unpack_from(">H", packet, start + 2)
                if port == to[1] and packet[start + 8 : start + 12] == b"DSDB":
                    yield packet[start + 8 :]

        yield packets()


class World:
    """A cluster, its secrets, its figures and its logs."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.layout = Layout(cluster.folder)
        self.members: Any = json.loads(self.layout.cluster_file.read_text())
        self.master = bytes.fromhex(self.layout.master_file.read_text().strip())
        self.uuid = UUID(cluster.status()["cluster"]).bytes
        control = self.members["manager"]["control_port"]
        self.channel = grpc.insecure_channel(f"127.0.0.1:{control}")
        self.control = control_pb2_grpc.ControlStub(self.channel)
        self.control_address = ("127.0.0.1", control)

        self.writer: Any = None
        self.report: Any = None

    def engine(self, consumer: str) -> Any:
        """The native side of a block daemon with the identity and key of this consumer."""
        uuid = self.node(consumer)
        key = role_key(self.master, "client", uuid, 1).hex()
        config = {"cluster": str(UUID(bytes=self.uuid)), "client": str(UUID(bytes=uuid)),
                  "key": key, "key_epoch": 1}  # fmt: skip
        core = drystone_native.BlockCore(json.dumps(config))
        request = control_pb2.ReadMapRequest()
        bearer = self.bearer(self.identity(consumer)["credential"])
        core.map(self.control.ReadMap(request, metadata=bearer, timeout=30).map)
        return core

    def identity(self, process: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            (self.layout.state(process) / "identity.json").read_text()
        )
        return found

    def node(self, process: str) -> bytes:
        return UUID(self.identity(process)["uuid"]).bytes

    def bearer(self, credential: str) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {credential}"),)

    def forged(self, role: str, uuid: bytes, master: bytes | None = None) -> str:
        """A credential, of this master key or another."""
        made = Credentials(master or self.master, 1)
        return made.issue(Peer(role, uuid.hex()))  # type: ignore[arg-type]

    def beacon(self, node: str) -> Address:
        (server,) = [s for s in self.members["servers"] if s["name"] == node]
        return ("127.0.0.1", server["beacon_port"])

    def drive(self, node: str) -> Address:
        (server,) = [s for s in self.members["servers"] if s["name"] == node]
        return ("127.0.0.1", server["drives"][0]["port"])

    def hello(self, **wrong: Any) -> Hello:
        """Of a consumer that belongs here, but for what is named."""
        uuid = self.node("block-2")
        good = Hello(self.uuid, uuid, role_key(self.master, "client", uuid, 1),
                     nonce=secrets.token_bytes(32))  # fmt: skip
        return replace(good, **wrong)

    def figure(self, process: str, name: str, **labels: str) -> float:
        """A sample of the live endpoint; 0 where it has none with these labels."""
        text = httpx.get(self.members["endpoints"]["metrics"][process], trust_env=False).text
        total = 0.0
        for shown, value in re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE):
            if all(f'{key}="{wanted}"' in shown for key, wanted in labels.items()):
                total += float(value)
        return total

    def refused_calls(self, interface: str, code: str) -> float:
        name = "drystone_manager_refused_calls_total"
        return self.figure("manager-1", name, interface=interface, code=code)

    def lines(self, process: str, event: str, **fields: Any) -> list[dict[str, Any]]:
        """What a process said of an event."""
        text = self.layout.log(process).read_text()
        told = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
        same = [one for one in told if one["event"] == event]
        return [one for one in same if all(one.get(k) == v for k, v in fields.items())]

    def becomes(self, ask: Callable[[], float], wanted: float, what: str) -> None:
        """Wait until a figure is that one: servers and beacons show what they last looked at."""
        try:
            wait_for(lambda: ask() == wanted, what, DEADLINE_S, poll_s=0.2)
        except Exception as error:
            raise AssertionError(f"{what}: {ask()}, not {wanted}") from error

    def problems(self) -> dict[str, str]:
        """What `drystone status` names, by code."""
        return {p["code"]: p["text"] for p in self.cluster.status()["problems"]}

    def drives_of(self, node: str) -> set[int]:
        """Numbers of a node's drives."""
        found = self.cluster.rest.get("/v1/drives")["items"]
        return {drive["id"] for drive in found if drive["node"] == node}

    def stopped(self, node: str) -> Path:
        """Stop a node in order; gives the file of its drive."""
        self.cluster.cli("local", "stop", node)
        return self.layout.drive(node, 1)
