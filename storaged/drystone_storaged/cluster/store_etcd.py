"""The metadata store on etcd v3: several managers, any number of which may die."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Sequence
from typing import Any, Final

import grpc

from drystone_storaged.cluster.etcd_client import EtcdClient, EtcdConfig, Member, Metadata
from drystone_storaged.cluster.etcd_codec import Codec
from drystone_storaged.cluster.etcd_keepalive import Keepalive
from drystone_storaged.cluster.etcd_watch import watch
from drystone_storaged.cluster.store import (
    RANGE_LIMIT_MAX,
    CompactedError,
    Compare,
    KeyValue,
    LeaseNotFoundError,
    Op,
    RangeResult,
    StoreUnavailableError,
    TxnResult,
    View,
    WatchBatch,
    check_key,
    check_limits,
    check_view,
)
from drystone_storaged.proto import etcd_pb2 as pb

VIEWS_MAX: Final = 3  # compactions come minutes apart; each further try means one hit us again


class EtcdStore:
    """``MetadataStore`` on an etcd cluster. Open it with ``EtcdStore.open``."""

    shared: Final = True

    def __init__(self, config: EtcdConfig) -> None:
        self._codec: Final = Codec(config.namespace)
        self._client: Final = EtcdClient(config)
        self._keepalive: Final = Keepalive(self._client)
        self.highest_revision = 0
        """Of all answers so far: a store that answers with less later was put back in time."""

    @classmethod
    async def open(cls, config: EtcdConfig) -> EtcdStore:
        """Connect; raises ``StoreUnavailableError`` or ``StoreDeniedError`` with what to check."""
        store = cls(config)
        try:
            await store.revision()
        except BaseException:
            await store.close()
            raise
        return store

    async def get(self, key: str) -> KeyValue | None:
        """Read one key."""
        check_key(key)
        answer = await self._range(pb.RangeRequest(key=self._codec.key(key)))
        return self._codec.kv(answer.kvs[0]) if answer.kvs else None

    async def range(
        self,
        prefix: str,
        *,
        after: str = "",
        limit: int = RANGE_LIMIT_MAX,
        min_mod_revision: int = 0,
    ) -> RangeResult:
        """Read keys of a prefix."""
        check_key(prefix)
        limit = min(limit, RANGE_LIMIT_MAX)
        request = self._codec.range(
            prefix, after=after, limit=limit, min_mod_revision=min_mod_revision
        )
        answer = await self._range(request)
        items = tuple(self._codec.kv(found) for found in answer.kvs)
        return RangeResult(answer.header.revision, items, answer.more)

    async def view(self, keys: Sequence[str], prefixes: Sequence[str]) -> View:
        """Read several keys and prefixes as of one moment: a transaction that only reads."""
        check_view(keys, prefixes)
        request = self._codec.view(keys, prefixes)
        for _ in range(VIEWS_MAX):
            try:
                return await self._view(request, len(keys), prefixes)
            except CompactedError:
                continue  # between two pages: as of now, then
        raise StoreUnavailableError("etcd is compacted faster than it can be read")

    async def _view(self, request: pb.TxnRequest, keys: int, prefixes: Sequence[str]) -> View:
        async def call(member: Member, login: Metadata, left: float) -> pb.TxnResponse:
            return await member.kv.Txn(request, timeout=left, metadata=login)

        answer = await self._client.read(call)  # nothing is written: it may be asked again
        revision = answer.header.revision
        self.highest_revision = max(self.highest_revision, revision)
        ranges = [each.response_range for each in answer.responses]
        found = [self._codec.kv(r.kvs[0]) if r.kvs else None for r in ranges[:keys]]
        wanted = zip(prefixes, ranges[keys:], strict=True)
        parts = [await self._whole(prefix, first, revision) for prefix, first in wanted]
        return View(revision, tuple(found), tuple(parts))

    async def _whole(
        self, prefix: str, page: pb.RangeResponse, revision: int
    ) -> tuple[KeyValue, ...]:
        """A whole prefix, of which ``page`` is the first part, as of one revision.

        Managers keep the history of minutes (``HISTORY_S``), far longer than paging takes.
        """
        items = [self._codec.kv(found) for found in page.kvs]
        while page.more:
            page = await self._range(
                self._codec.range(
                    prefix, after=items[-1].key, limit=RANGE_LIMIT_MAX, revision=revision
                )
            )
            items += [self._codec.kv(found) for found in page.kvs]
        return tuple(items)

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Op], otherwise: Sequence[Op] = ()
    ) -> TxnResult:
        """Run a transaction."""
        check_limits(compares, then, otherwise)
        request = self._codec.txn(compares, then, otherwise)

        async def call(member: Member, login: Metadata, left: float) -> pb.TxnResponse:
            return await member.kv.Txn(request, timeout=left, metadata=login)

        answer = await self._client.write(call)
        self.highest_revision = max(self.highest_revision, answer.header.revision)
        return self._codec.result(answer)

    async def revision(self) -> int:
        """Give the current revision: that of a linearizable read of nothing."""
        answer = await self._range(pb.RangeRequest(key=self._codec.key("/"), limit=1))
        return int(answer.header.revision)

    def watch(self, prefix: str, from_revision: int) -> AsyncGenerator[WatchBatch]:
        """Follow a prefix, over the death of members."""
        check_key(prefix)
        return watch(self._client, self._codec, prefix, from_revision)

    async def lease_grant(self, ttl_s: float) -> int:
        """Make a lease. etcd counts whole seconds and gives at least 2 s by default."""
        request = pb.LeaseGrantRequest(TTL=math.ceil(ttl_s))

        async def call(member: Member, login: Metadata, left: float) -> pb.LeaseGrantResponse:
            return await member.lease.LeaseGrant(request, timeout=left, metadata=login)

        # A lease whose answer was lost holds no key and ends by itself: asking again is safe.
        answer = await self._client.read(call)
        if answer.error:
            raise StoreUnavailableError(f"etcd gives no lease: {answer.error}")
        return int(answer.ID)

    async def lease_keepalive(self, lease: int) -> None:
        """Start its time anew."""
        await self._keepalive.renew(lease)

    async def lease_revoke(self, lease: int) -> None:
        """End it."""
        request = pb.LeaseRevokeRequest(ID=lease)

        async def call(member: Member, login: Metadata, left: float) -> Any:
            return await member.lease.LeaseRevoke(request, timeout=left, metadata=login)

        try:
            await self._client.read(call)
        except LeaseNotFoundError:
            return  # gone already: what was wanted

    async def compact(self, revision: int) -> None:
        """Forget history. One that another manager compacted further is no error."""
        request = pb.CompactionRequest(revision=revision)

        async def call(member: Member, login: Metadata, left: float) -> Any:
            try:
                return await member.kv.Compact(request, timeout=left, metadata=login)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.OUT_OF_RANGE and "compacted" in str(
                    error.details()
                ):
                    return None
                raise

        await self._client.read(call)

    async def close(self) -> None:
        """End every connection."""
        self._keepalive.close()
        await self._client.close()

    async def _range(self, request: pb.RangeRequest) -> pb.RangeResponse:
        def call(member: Member, login: Metadata, left: float) -> Awaitable[pb.RangeResponse]:
            answer: Awaitable[pb.RangeResponse] = member.kv.Range(
                request, timeout=left, metadata=login
            )
            return answer

        found = await self._client.read(call)
        self.highest_revision = max(self.highest_revision, found.header.revision)
        return found
