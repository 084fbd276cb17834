"""Who leads: a key bound to a lease. It protects no data; fences and compares do.

A manager *holds* leadership from the transaction that made the key until its lease may have ended
by this process's own clock, whatever the store says or does not say. It *leads* once it is ready
to: only then it answers and acts. What proves leadership is ``compare`` alone, which goes into
every transaction that a manager makes (``GuardedStore``).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

from drystone_common.errors import UnavailableError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.store import (
    Compare,
    LeaseNotFoundError,
    MetadataStore,
    Put,
    StoreUnavailableError,
)
from drystone_storaged.cluster.vacancy import Vacancy

TTL_S: Final = 2.0  # the row "leader lease expiry + election" of the time budget
KEEPALIVE_S: Final = 0.5  # three may be lost before the lease ends
ALONE_TTL_S: Final = 3600.0
"""In a store that only this process can use nobody could take over while this process lives, and
opening the store ends every older lease: there the time of a lease protects nothing."""


class NotLeaderError(UnavailableError):
    """Another manager leads: nothing of the call was carried out."""

    default_code = "not_leader"


class LeadershipLostError(NotLeaderError):
    """Leadership ended during a call, of which a part may have been carried out."""

    default_code = "leadership_lost"


class Leadership:
    """This manager's claim."""

    def __init__(self, store: MetadataStore, name: str) -> None:
        self._store = store
        self._name = name
        self._vacancy = Vacancy(store)
        self._seen = 0
        self._lease = 0
        self._created = 0
        self._ready = False
        self._since = 0.0
        self._lost = asyncio.Event()
        self._kept = 0.0
        self._ttl_s = TTL_S if store.shared else ALONE_TTL_S
        self._keepalive_s = self._ttl_s * KEEPALIVE_S / TTL_S
        self.before_claim: list[Callable[[], Awaitable[None]]] = []
        """Run before a claim is made; what they raise keeps this manager from it."""
        self.on_lost: list[Callable[[], None]] = []
        """Called at once when leadership ends, or is known to have ended."""

    @property
    def holds(self) -> bool:
        """Whether this manager believes that the leader key is its own."""
        if self._created and _now() > self._kept + self._ttl_s:
            # Frozen, or the store was away, for longer than the lease: somebody else may lead.
            self._forget()
        return self._created != 0

    @property
    def leads(self) -> bool:
        """Whether this manager acts as the leader."""
        return self.holds and self._ready

    def begin(self) -> None:
        """Everything is prepared: lead from now on."""
        if not self._ready:
            self._since = _now()
        self._ready = self.holds

    def led_s(self) -> float:
        """For how long this manager has led; 0 where it does not."""
        return _now() - self._since if self.leads else 0.0

    def require(self) -> None:
        """Raise ``NotLeaderError`` where this manager does not lead."""
        if not self.leads:
            raise not_leader()

    def compare(self) -> Compare:
        """The leader key is still the one this manager made."""
        if not self.holds:
            raise _lost()
        return Compare.created(keys.LEADER, self._created)

    def deposed(self, mine: Compare) -> LeadershipLostError:
        """This comparison has failed: stop; gives the error to raise."""
        if mine.operand == self._created:
            self._forget()
        return _lost()

    async def campaign(self) -> bool:
        """Try once to become leader."""
        await self._withdraw()
        found = await self._store.get(keys.LEADER)
        self._seen = found.mod_revision if found else 0
        if found is not None:
            return False
        for check in self.before_claim:
            await check()
        began = _now()
        # From here on an answer may be lost: the lease is withdrawn before the next try.
        self._lease = await self._store.lease_grant(self._ttl_s)
        done = await self._store.txn(
            [Compare.absent(keys.LEADER)],
            [Put(keys.LEADER, self._name.encode(), self._lease)],
        )
        if done.succeeded:
            self._vacancy.stop()
            self._created, self._kept, self._ready = done.revision, began, False
        return self.holds

    async def keepalive(self) -> bool:
        """Extend the lease; False = it ended and leadership with it."""
        began = _now()
        try:
            async with asyncio.timeout_at(self._kept + self._ttl_s):
                await self._store.lease_keepalive(self._lease)
        except (LeaseNotFoundError, TimeoutError):
            self._forget()
        else:
            self._kept = began
        return self.holds

    async def resign(self) -> None:
        """Give leadership up at once; who resigns has stopped before."""
        self._created, self._ready = 0, False
        self._lost.set()
        self._vacancy.stop()
        await self._withdraw()

    def forsake(self) -> None:
        """Stop leading at once, whatever the store says; the key ends with its lease."""
        self._forget()

    async def leader(self) -> str:
        """The name of the manager that holds the key; empty = none at the moment."""
        found = await self._store.get(keys.LEADER)
        return found.value.decode("utf-8", "replace") if found else ""

    async def rest(self) -> None:
        """Return when it is time for the next ``keepalive`` or ``campaign``."""
        if not self.holds:
            await self._vacancy.wait(self._seen, KEEPALIVE_S)
            return
        self._lost.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._keepalive_s):
                await self._lost.wait()

    async def _withdraw(self) -> None:
        """End an older claim of ours, also one of which nobody knows whether it was made.

        One that cannot be ended now ends by itself, and keeps us out no longer than others.
        """
        lease, self._lease = self._lease, 0
        if lease:
            with contextlib.suppress(StoreUnavailableError):
                await self._store.lease_revoke(lease)

    def _forget(self) -> None:
        held, self._created, self._ready = self._created, 0, False
        self._lost.set()
        if held:
            for call in self.on_lost:
                call()


def not_leader() -> NotLeaderError:
    """The error of a manager that is asked for what only the leader does."""
    return NotLeaderError(
        "this manager does not lead", hint="ask another manager, or try again in a moment"
    )


def _now() -> float:
    return asyncio.get_running_loop().time()


def _lost() -> LeadershipLostError:
    return LeadershipLostError(
        "this manager does not lead any more",
        hint="ask another manager whether the call was carried out",
    )
