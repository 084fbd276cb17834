"""Who leads: a key bound to a lease. It protects no data; fences and compares do."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from drystone_common.errors import UnavailableError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.store import (
    Compare,
    LeaseNotFoundError,
    MetadataStore,
    Put,
)

TTL_S: Final = 2.0  # the row "leader lease expiry + election" of the time budget
KEEPALIVE_S: Final = 0.5  # three may be lost before the lease ends
ALONE_TTL_S: Final = 3600.0
"""In a store that only this process can use nobody could take over while this process lives, and
opening the store ends every older lease: there the time of a lease protects nothing."""


class NotLeaderError(UnavailableError):
    """Another manager leads."""

    default_code = "not_leader"


class Leadership:
    """This manager's claim. ``compare`` goes into every transaction that membership makes."""

    def __init__(self, store: MetadataStore, name: str) -> None:
        self._store = store
        self._name = name
        self._lease = 0
        self._created = 0
        self._lost = asyncio.Event()
        self._ttl_s = TTL_S if store.shared else ALONE_TTL_S
        self._keepalive_s = self._ttl_s * KEEPALIVE_S / TTL_S

    @property
    def leads(self) -> bool:
        """Whether this manager believes to lead; only ``compare`` proves it."""
        return self._created != 0

    def compare(self) -> Compare:
        """The leader key is still the one this manager made."""
        if not self._created:
            raise NotLeaderError(
                "this manager does not lead", hint="ask another manager, or try again in a moment"
            )
        return Compare.created(keys.LEADER, self._created)

    async def campaign(self) -> bool:
        """Try once to become leader."""
        if not self._lease:
            self._lease = await self._store.lease_grant(self._ttl_s)
        done = await self._store.txn(
            [Compare.absent(keys.LEADER)],
            [Put(keys.LEADER, self._name.encode(), self._lease)],
        )
        if done.succeeded:
            self._created = done.revision
            return True
        # The answer to an earlier try may have been lost: the key with our lease is ours.
        found = await self._store.get(keys.LEADER)
        if found is not None and found.lease == self._lease:
            self._created = found.create_revision
        return self.leads

    async def keepalive(self) -> bool:
        """Extend the lease; False = it ended and leadership with it."""
        try:
            await self._store.lease_keepalive(self._lease)
        except LeaseNotFoundError:
            self._forget()
            return False
        return True

    async def resign(self) -> None:
        """Give leadership up at once."""
        lease = self._lease
        self._forget()
        if lease:
            await self._store.lease_revoke(lease)

    async def rest(self) -> None:
        """Return when it is time for the next ``keepalive`` or ``campaign``."""
        if not self.leads:
            await asyncio.sleep(KEEPALIVE_S)
            return
        self._lost.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._keepalive_s):
                await self._lost.wait()

    def _forget(self) -> None:
        self._lease = self._created = 0
        self._lost.set()
