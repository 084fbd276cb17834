"""Certificates in folders as Kubernetes lays them out, and managers that use them."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from drystone_operator.apply import certificates
from drystone_operator.apply.certificates import Pair
from drystone_storaged.agent.control import Control
from drystone_storaged.agent.identity import IdentityFile
from drystone_storaged.agent.register import Registrant, register
from drystone_storaged.agent.rest import Rest, read_token
from drystone_storaged.agent.session import Session
from drystone_storaged.manager import tls
from drystone_storaged.manager.app import Running, running
from drystone_storaged.manager.settings import ManagerSettings
from drystone_storaged.proto import control_pb2 as pb
from tests.storaged.manager_env import until

HOSTS = ("localhost", "127.0.0.1")
LONG_AGO = timedelta(days=2 * certificates.LEAF_DAYS)


def authority(name: str = "ours") -> Pair:
    return certificates.authority(name, datetime.now(UTC) - LONG_AGO)


def leaf(by: Pair, hosts: tuple[str, ...] = HOSTS, *, expired: bool = False) -> Pair:
    now = datetime.now(UTC)
    return certificates.issue(by, hosts, now - LONG_AGO if expired else now)


class Mounted:
    """A folder whose files are swapped all at once, by a link far above them."""

    def __init__(self, folder: Path, **files: str) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        folder.mkdir()
        self.swap(**files)
        for name in files:
            (folder / name).symlink_to(Path("..data") / name)

    def __truediv__(self, name: str) -> Path:
        return self._folder / name

    def swap(self, **files: str) -> None:
        version = self._folder / f"..v{next(self._numbers)}"
        version.mkdir()
        for name, text in files.items():
            (version / name).write_text(text)
        fresh = self._folder / "..data_tmp"
        fresh.symlink_to(version.name)
        fresh.replace(self._folder / "..data")


def mounted(folder: Path, pair: Pair) -> Mounted:
    return Mounted(folder, crt=pair.certificate, key=pair.key)


def settings(folder: Path, pair: Mounted | None = None, **changes: Any) -> ManagerSettings:
    fields: dict[str, Any] = {
        "state_dir": folder, "rest_listen": "127.0.0.1:0", "control_listen": "127.0.0.1:0",
    }  # fmt: skip
    if pair is not None:
        fields |= {"tls_cert_file": pair / "crt", "tls_key_file": pair / "key"}
    folder.mkdir(exist_ok=True)
    return ManagerSettings(**(fields | changes))


@contextlib.asynccontextmanager
async def managing(folder: Path, pair: Pair | Mounted | None = None) -> AsyncIterator[Running]:
    """A manager; its folder has the token of role admin in `admin`."""
    if isinstance(pair, Pair):
        pair = mounted(folder.with_name(f"{folder.name}-tls"), pair)
    async with running(settings(folder, pair)) as started:
        lines = (folder / "tokens").read_text().splitlines()
        (folder / "admin").write_text(dict(line.split(" ", 1) for line in lines)["admin"])
        yield started


def rest(folder: Path, url: str | list[str], ca_file: Path | None, timeout_s: float = 20.0) -> Rest:
    return Rest(url, read_token(folder / "admin"), ca_file=ca_file, timeout_s=timeout_s)


async def ask(folder: Path, url: str | list[str], ca_file: Path | None) -> dict[str, Any]:
    """What a command does, in a thread: the manager runs in this loop."""

    def call() -> dict[str, Any]:
        with rest(folder, url, ca_file) as client:
            return client.get("/v1/cluster")

    return await asyncio.to_thread(call)


@contextlib.asynccontextmanager
async def session(folder: Path, url: str, control: Control) -> AsyncIterator[Session]:
    """A consuming node with an open session."""

    def token() -> str:
        body = {"role": "client", "name": "block-a"}
        with rest(folder, url, folder / "ca") as client:
            return str(client.post("/v1/join-tokens", body)["token"])

    node = folder / "node"
    node.mkdir()
    (node / "join").write_text(await asyncio.to_thread(token))
    file = IdentityFile(node)
    who = Registrant(pb.ROLE_CLIENT, str(node / "join"))
    await register(control, file, file.load_or_create("block-a"), who)
    opened = Session(control, pb.Hello(instance=1), _ignore)
    task = asyncio.create_task(opened.run())
    try:
        await until(opened.connected.is_set, "a session")
        yield opened
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _ignore(_: pb.SessionDown) -> None:
    return None


async def shown(address: str, name: str | None = None) -> tuple[str, str]:
    """The certificate that a new connection is shown, and the version that was agreed upon."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    # What gRPC insists on.
    context.set_alpn_protocols(["h2", "http/1.1"])
    host, _, port = address.rpartition("//")[2].rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context, server_hostname=name)
    known = writer.get_extra_info("ssl_object")
    pem, version = ssl.DER_cert_to_PEM_cert(known.getpeercert(binary_form=True)), known.version()
    writer.close()
    return pem, version


def quick(monkeypatch: Any) -> None:
    """No test waits for a look at files."""
    monkeypatch.setattr(tls, "POLL_S", 0.01)
