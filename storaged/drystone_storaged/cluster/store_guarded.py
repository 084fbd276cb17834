"""The store as everything of a manager but its election sees it: only the leader writes.

Every transaction that writes compares the leader key too. A manager that is frozen or cut off
while another takes over can therefore change nothing afterwards, however late it wakes and
whatever it had decided: not membership, and no record of a volume, drive or node either.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from drystone_storaged.cluster import keys
from drystone_storaged.cluster.leadership import Leadership
from drystone_storaged.cluster.store import (
    RANGE_LIMIT_MAX,
    Compare,
    Get,
    KeyValue,
    MetadataStore,
    Op,
    RangeResult,
    TxnResult,
    View,
    WatchBatch,
)


class GuardedStore:
    """``MetadataStore`` over another one; raises ``LeadershipLostError`` instead of writing."""

    def __init__(self, inner: MetadataStore, leadership: Leadership) -> None:
        self._inner = inner
        self._leadership = leadership

    @property
    def shared(self) -> bool:
        """See the store beneath."""
        return self._inner.shared

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()
    ) -> TxnResult:
        """Run a transaction; one that writes, only while this manager leads."""
        if all(isinstance(op, Get) for op in (*then, *otherwise)):
            return await self._inner.txn(compares, then, otherwise)
        mine = self._leadership.compare()
        others = [compare for compare in compares if compare != mine]
        # The other branch shows, as of the same moment, whether it was the leader key that failed.
        done = await self._inner.txn([mine, *others], then, [*otherwise, Get(keys.LEADER)])
        if done.succeeded:
            return done
        leader = done.reads[-1]
        if leader is None or leader.create_revision != mine.operand:
            raise self._leadership.deposed(mine)
        return TxnResult(False, done.revision, done.reads[:-1])

    async def get(self, key: str) -> KeyValue | None:
        """Read one key."""
        return await self._inner.get(key)

    async def range(
        self,
        prefix: str,
        *,
        after: str = "",
        limit: int = RANGE_LIMIT_MAX,
        min_mod_revision: int = 0,
    ) -> RangeResult:
        """Read keys of a prefix."""
        return await self._inner.range(
            prefix, after=after, limit=limit, min_mod_revision=min_mod_revision
        )

    async def view(self, keys: Sequence[str], prefixes: Sequence[str]) -> View:
        """Read several keys and prefixes as of one moment."""
        return await self._inner.view(keys, prefixes)

    async def revision(self) -> int:
        """Give the current revision."""
        return await self._inner.revision()

    def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[WatchBatch]:
        """Follow a prefix."""
        return self._inner.watch(prefix, from_revision)

    async def lease_grant(self, ttl_s: float) -> int:
        """Make a lease."""
        return await self._inner.lease_grant(ttl_s)

    async def lease_keepalive(self, lease: int) -> None:
        """Start the lease's time anew."""
        await self._inner.lease_keepalive(lease)

    async def lease_revoke(self, lease: int) -> None:
        """End the lease."""
        await self._inner.lease_revoke(lease)

    async def compact(self, revision: int) -> None:
        """Forget history."""
        await self._inner.compact(revision)

    async def close(self) -> None:
        """Release everything."""
        await self._inner.close()
