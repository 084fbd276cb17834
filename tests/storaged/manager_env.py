"""A whole manager in this process, and peers that speak the control channel to it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import httpx

from drystone_storaged.cluster import pgmap
from drystone_storaged.manager.app import Running, running
from drystone_storaged.manager.settings import ManagerSettings
from drystone_storaged.proto import control_pb2 as pb
from drystone_storaged.proto import control_pb2_grpc

DEADLINE_S = 20.0
ROLES = {"server": pb.ROLE_SERVER, "client": pb.ROLE_CLIENT, "beacon": pb.ROLE_BEACON}
GIB = 1 << 30


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition with a deadline; coroutine functions are awaited."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                found = condition()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited in vain: {what}") from None


@dataclass
class Manager:
    running: Running
    http: httpx.AsyncClient
    tokens: dict[str, str]

    @property
    def services(self):
        return self.running.services

    def auth(self, role: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[role]}"}

    async def token(self, role: str, name: str) -> str:
        answer = await self.http.post("/v1/join-tokens", json={"role": role, "name": name})
        assert answer.status_code == 201, answer.text
        return answer.json()["token"]

    async def status(self) -> dict:
        return (await self.http.get("/v1/status")).json()


def listening() -> socket.socket:
    """Somebody who listens: the kernel takes connections by itself, so none is left open here."""
    return socket.create_server(("127.0.0.1", 0), backlog=1024)


@contextlib.asynccontextmanager
async def manager(path: Path, **changes) -> AsyncIterator[Manager]:
    settings = ManagerSettings(
        state_dir=path, rest_listen="127.0.0.1:0", control_listen="127.0.0.1:0", **changes
    )
    async with running(settings) as started:
        lines = (path / "tokens").read_text().splitlines()
        tokens = dict(line.split(" ", 1) for line in lines)
        headers = {"Authorization": f"Bearer {tokens['admin']}"}
        async with httpx.AsyncClient(base_url=started.rest, headers=headers, timeout=30) as http:
            yield Manager(started, http, tokens)


@dataclass
class Peer:
    """A server, beacon or block daemon as the manager sees it."""

    manager: Manager
    name: str
    role: str
    uuid: bytes = field(default_factory=lambda: os.urandom(16))
    metadata: tuple = ()
    commands: list = field(default_factory=list)
    messages: list = field(default_factory=list)
    heard: set = field(default_factory=set)
    session: asyncio.Task | None = None
    answers: bool = True
    confirms: bool = True
    voters: set = field(default_factory=set)
    beacon_addr: str = ""
    page_instance: int = 0
    still: list[bool] = field(default_factory=list)
    """Answers of a beacon to REVOKE, in turn; then the last one again and again."""
    tested_us: int = 500
    """What a test of the server's drive finds."""
    test_errors: int = 0

    def __post_init__(self) -> None:
        self.channel = grpc.aio.insecure_channel(self.manager.running.control)
        self.stub = control_pb2_grpc.ControlStub(self.channel)
        self.outbox: asyncio.Queue = asyncio.Queue()
        self.drive = 0
        self.nonce = 0
        self.cluster = b""
        self.listener: socket.socket | None = None

    async def register(self, token: str = ""):
        answer = await self.stub.Register(
            pb.RegisterRequest(
                role=ROLES[self.role],
                name=self.name,
                uuid=self.uuid,
                join_token=token,
                beacon_addr=self.beacon_addr,
                page_instance=self.page_instance,
            ),
            metadata=self.metadata,
        )
        self.metadata = (("authorization", f"Bearer {answer.credential}"),)
        self.cluster = answer.cluster
        return answer

    async def call(self, method: str, request):
        return await getattr(self.stub, method)(request, metadata=self.metadata, timeout=20)

    async def connect(self, instance: int = 1) -> None:
        self.session = asyncio.create_task(self._session(instance))
        session = self.session
        await until(lambda: self.messages or session.done(), "the session's welcome")

    async def _session(self, instance: int) -> None:
        async def up():
            yield pb.SessionUp(hello=pb.Hello(instance=instance))
            while True:
                yield await self.outbox.get()

        async for message in self.stub.Session(up(), metadata=self.metadata):
            self.messages.append(message)
            if self.role != "client" and message.WhichOneof("kind") == "welcome":
                await self._confirm(message.welcome.voters)
            if message.WhichOneof("kind") == "command":
                self.commands.append(message.command)
                if self.answers:
                    await self.outbox.put(pb.SessionUp(result=self._answer(message.command)))

    async def _confirm(self, voters) -> None:
        """As a beacon does that took the list."""
        self.voters = {voter.name for voter in voters.voters}
        if self.confirms:
            await self.call("ReportSilence", pb.ReportSilenceRequest(voters_version=voters.version))

    def _answer(self, command):
        result = pb.CommandResult(id=command.id)
        kind = command.WhichOneof("kind")
        if kind == "fence":
            for number in command.fence.drives:
                result.drives.add(drive=number, sealed_generation=command.fence.generation)
        elif kind == "free_layer":
            for number in command.free_layer.drives:
                result.drives.add(drive=number)
        elif kind == "promise" and command.promise.suspect.node in self.heard:
            result.code = "heard"
        elif kind == "revoke":
            still = self.still.pop(0) if len(self.still) > 1 else self.still[0]
            result.code = "" if still else "server_moves"
        else:
            self._look(kind, command, result)
        return result

    def _look(self, kind, command, result):
        """What asks about a drive and changes nothing there."""
        if kind == "probe":
            result.probe.drive = command.probe.drive
        elif kind == "exercise":
            result.exercise.p99_us, result.exercise.errors = self.tested_us, self.test_errors
        elif kind == "scrub":
            result.scrub.bytes_done = result.scrub.bytes_total = 4096
        elif kind == "compare":
            result.CopyFrom(self.compared(command))

    def compared(self, command):
        """What this peer's drive finds in a group; tests replace it."""
        seen = pb.Compared(chunks=2, blocks=10, unstable=1)
        return pb.CommandResult(id=command.id, compared=seen)

    async def disconnect(self) -> None:
        if self.session is not None:
            self.session.cancel()
            await asyncio.gather(self.session, return_exceptions=True)
            self.session = None

    async def listen(self) -> str:
        """An address where somebody listens, as at a drive."""
        await self.stop_listening()
        self.listener = listening()
        host, port = self.listener.getsockname()
        return f"{host}:{port}"

    async def open_drive(self, nonce: int = 7, previous: int = 0, uuid: bytes = b"") -> None:
        answer = await self.call(
            "OpenDrive",
            pb.OpenDriveRequest(
                uuid=uuid or self.uuid[::-1], serial=f"serial-{self.name}", nonce=nonce,
                previous_nonce=previous, capacity_bytes=8 * GIB, addr=await self.listen(),
                incarnation=1, highest_revision=1, cluster=self.cluster,
            ),
        )  # fmt: skip
        self.drive, self.nonce = answer.drive, nonce
        await self.ready()

    async def ready(self, state=pb.DRIVE_STATE_READY, reason: str = "") -> None:
        report = pb.ReportDriveRequest(
            drive=self.drive, nonce=self.nonce, state=state, reason=reason
        )
        await self.call("ReportDrive", report)

    async def reports(self, p99_us: int, ops: int = 100, **figures) -> None:
        """How the server's drive did in the last seconds."""
        drive = pb.DriveStatus(
            drive=self.drive, capacity_bytes=8 * GIB, p99_us=p99_us, recent_ops=ops, **figures
        )
        await self.outbox.put(pb.SessionUp(status=pb.Status(drives=[drive])))

    async def map(self) -> pgmap.ClusterMap:
        answer = await self.call("ReadMap", pb.ReadMapRequest())
        return pgmap.decode_map(answer.map)

    async def stop_listening(self) -> None:
        if self.listener is not None:
            self.listener.close()

    async def die(self) -> None:
        """As SIGKILL does: the socket is closed before the session is seen to end."""
        await self.stop_listening()
        await self.disconnect()

    async def close(self) -> None:
        await self.disconnect()
        if self.listener is not None:
            self.listener.close()
        await self.channel.close()
        await asyncio.sleep(0)  # aborted connections close in the loop's next turn


@contextlib.asynccontextmanager
async def peers(
    manager: Manager, servers: int, clients: int = 1, *, pg_count: int | None = None
) -> AsyncIterator[list[Peer]]:
    """Registered, connected and ready peers: servers first; pool `default` exists."""
    made: list[Peer] = []
    try:
        for number, role in itertools.chain(
            ((n, "server") for n in range(1, servers + 1)),
            ((n, "client") for n in range(1, clients + 1)),
        ):
            name = f"node-{number}" if role == "server" else f"block-{number}"
            peer = Peer(manager, name, role)
            made.append(peer)
            await peer.register(await manager.token(role, name))
            await peer.connect()
            if role == "server":
                await peer.open_drive()
        if servers:
            body = {"name": "default", "copies": min(3, servers), "pg_count": pg_count}
            answer = await manager.http.post("/v1/pools", json=body)
            assert answer.status_code == 201, answer.text
        yield made
    finally:
        for peer in made:
            await peer.close()


def insync(cluster_map: pgmap.ClusterMap) -> list[set[int]]:
    """In-sync drives of every PG of the first pool."""
    return [
        set(record.insync)
        for shard in cluster_map.pools[0].shards
        for record in pgmap.decode_shard(shard)
    ]
