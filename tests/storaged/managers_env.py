"""Several managers of one cluster on a real etcd, in this process."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from drystone_storaged.manager.app import running
from drystone_storaged.manager.settings import ManagerSettings
from tests.storaged.manager_env import Manager, Peer, until

ROLES = ("read", "operate", "admin")


@dataclass
class Cluster:
    """Managers of one cluster; ``start`` and ``stop`` them by name."""

    folder: Path
    endpoints: tuple[str, ...]
    namespace: str
    stack: contextlib.AsyncExitStack
    tokens: dict[str, str] = field(default_factory=dict)
    managers: dict[str, Manager] = field(default_factory=dict)

    def settings(self, name: str, **changes) -> ManagerSettings:
        fields: dict[str, Any] = {
            "name": name,
            "state_dir": self.folder / name,
            "metadata": "etcd",
            "etcd_endpoints": list(self.endpoints),
            "etcd_namespace": self.namespace,
            "rest_listen": "127.0.0.1:0",
            "control_listen": "127.0.0.1:0",
            "master_key_file": self.folder / "master.key",
            "tokens_file": self.folder / "tokens",
        }
        (self.folder / name).mkdir(exist_ok=True)
        return ManagerSettings(**(fields | changes))

    async def start(self, name: str, **changes) -> Manager:
        started = await self.stack.enter_async_context(running(self.settings(name, **changes)))
        http = await self.stack.enter_async_context(
            httpx.AsyncClient(
                base_url=started.rest,
                headers={"Authorization": f"Bearer {self.tokens['admin']}"},
                timeout=30,
            )
        )
        self.managers[name] = Manager(started, http, self.tokens)
        return self.managers[name]

    async def leader(self, besides: Manager | None = None) -> Manager:
        """Who leads, when somebody does."""
        found: list[Manager] = []

        def leads() -> bool:
            found[:] = [
                m
                for m in self.managers.values()
                if m is not besides and m.services.leadership.leads
            ]
            return bool(found)

        await until(leads, "a manager leads")
        assert len(found) == 1, "never two"
        return found[0]


@contextlib.asynccontextmanager
async def cluster(
    folder: Path, endpoints: tuple[str, ...], names: tuple[str, ...] = ("m1", "m2")
) -> AsyncIterator[Cluster]:
    tokens = {role: f"token-of-role-{role}-{secrets.token_hex(8)}" for role in ROLES}
    (folder / "tokens").write_text("".join(f"{r} {t}\n" for r, t in tokens.items()))
    (folder / "master.key").write_text("11" * 32 + "\n")
    async with contextlib.AsyncExitStack() as stack:
        made = Cluster(folder, endpoints, f"/{secrets.token_hex(6)}", stack, tokens)
        for name in names:
            await made.start(name)
        yield made


async def depose(manager: Manager) -> None:
    """Its lease ends in etcd without its knowledge, as after a pause that nobody noticed."""
    leadership = manager.services.leadership
    await manager.services.env.store.lease_revoke(leadership._lease)


async def move(peer: Peer, to: Manager, drive: bool = True) -> None:
    """As an agent does that finds another leader."""
    old = peer.channel
    await peer.disconnect()
    peer.manager = to
    metadata, drive_, nonce, cluster_ = peer.metadata, peer.drive, peer.nonce, peer.cluster
    listener = peer.listener
    peer.__post_init__()
    peer.metadata, peer.drive, peer.nonce, peer.cluster = metadata, drive_, nonce, cluster_
    peer.listener = listener
    del peer.messages[:]
    await old.close()
    await peer.connect()
    if drive and peer.role == "server":
        await peer.ready()
