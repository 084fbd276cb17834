"""One client of the managers for each StorageCluster, made anew when what it needs changed."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import httpx

from drystone_operator.handlers.observe import Secrets
from drystone_operator.manager.client import ManagerClient
from drystone_operator.resources.base import Build
from drystone_storaged.agent.trust import client_context, require_https

Transport = Callable[[], httpx.AsyncBaseTransport | None]


class Managers:
    """Clients by StorageCluster."""

    def __init__(
        self, *, timeout_s: float, urls: tuple[str, ...] = (), transport: Transport = lambda: None
    ) -> None:
        self._timeout_s = timeout_s
        self._urls = urls
        self._transport = transport
        self._clients: dict[tuple[str, str], tuple[tuple[object, ...], ManagerClient]] = {}

    async def client(self, build: Build, secrets: Secrets) -> ManagerClient | None:
        """The client of a cluster; None while there is no token yet.

        Where there is a CA no token leaves in clear text: ``not_https``.
        """
        if not secrets.admin:
            return None
        wanted = (self._urls or build.rest_urls, secrets.admin, secrets.authority)
        place = (build.namespace, build.name)
        known = self._clients.get(place)
        if known is not None and known[0] == wanted:
            return known[1]
        if secrets.authority:
            require_https(wanted[0])
        if known is not None:
            await known[1].aclose()
        made = ManagerClient(
            wanted[0],
            secrets.admin,
            timeout_s=self._timeout_s,
            verify=_verify(secrets.authority),
            transport=self._transport(),
        )
        self._clients[place] = (wanted, made)
        return made

    def known(self, build: Build) -> ManagerClient | None:
        """The client as it was made last."""
        found = self._clients.get((build.namespace, build.name))
        return found[1] if found else None

    async def aclose(self) -> None:
        """Close every client."""
        for _, client in self._clients.values():
            await client.aclose()
        self._clients.clear()


def _verify(authority: str) -> ssl.SSLContext | bool:
    return client_context(authority.encode(), "the CA of the cluster") if authority else True
