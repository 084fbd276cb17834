"""A lease renewed over one stream: one for each renewal costs an idle leader three times that."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import grpc

from drystone_storaged.cluster.etcd_client import ATTEMPT_S, EtcdClient, Member, Metadata
from drystone_storaged.cluster.store import LeaseNotFoundError, StoreUnavailableError
from drystone_storaged.proto import etcd_pb2 as pb

AGAIN_S: Final = 0.7
"""For an answer on a stream that stands: after that another one is opened, at another member, and
the lease of a leader (2 s) still has time for it."""

_BROKEN: Final = (grpc.aio.AioRpcError, asyncio.InvalidStateError, StoreUnavailableError)


class Keepalive:
    """Renewals of one caller, one after the other; several at a time have a stream each."""

    def __init__(self, client: EtcdClient) -> None:
        self._client = client
        self._open: tuple[Member, Any] | None = None

    async def renew(self, lease: int) -> None:
        """Start its time anew."""
        answer = await self._again(lease)
        if answer is None:
            answer = await self._client.read(lambda *at: self._anew(lease, *at))
        if answer.TTL <= 0:
            raise LeaseNotFoundError("the lease expired or was revoked")

    def close(self) -> None:
        """End the stream."""
        if self._open is not None:
            self._open[1].cancel()
            self._open = None

    async def _again(self, lease: int) -> pb.LeaseKeepAliveResponse | None:
        """On the stream that stands; None = there is none, or it does not answer."""
        if self._open is None:
            return None
        (member, stream), self._open = self._open, None
        try:
            async with asyncio.timeout(AGAIN_S):
                return await self._ask(member, stream, lease)
        except (*_BROKEN, TimeoutError):
            self._client.failed(member)
            return None
        except asyncio.CancelledError:
            if self._client.cancelled_by_close():
                raise StoreUnavailableError("the metadata store is closed") from None
            raise

    async def _anew(
        self, lease: int, member: Member, login: Metadata, left: float
    ) -> pb.LeaseKeepAliveResponse:
        """On a stream of its own, which stays for the next one."""
        stream = member.lease.LeaseKeepAlive(metadata=login)
        try:
            async with asyncio.timeout(min(left, ATTEMPT_S)):
                return await self._ask(member, stream, lease)
        except TimeoutError:
            self._client.failed(member)
            raise StoreUnavailableError(f"etcd at {member.endpoint} renews no lease") from None
        except StoreUnavailableError:
            self._client.failed(member)  # else the next try would be at the same one
            raise
        except asyncio.InvalidStateError:
            # The stream ended before it took the request; its status says why.
            raise await _status(stream) from None

    async def _ask(self, member: Member, stream: Any, lease: int) -> pb.LeaseKeepAliveResponse:
        """Ask, and keep the stream where it gave the one answer that is due on it."""
        good = False
        try:
            await stream.write(pb.LeaseKeepAliveRequest(ID=lease))
            said: Any = await stream.read()
            if said is grpc.aio.EOF:
                raise StoreUnavailableError("etcd ended the lease stream without an answer")
            good = self._open is None
            answer: pb.LeaseKeepAliveResponse = said
            return answer
        finally:
            if good:
                self._open = (member, stream)
            else:
                stream.cancel()


async def _status(stream: Any) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        await stream.code(),
        await stream.initial_metadata(),
        await stream.trailing_metadata(),
        await stream.details(),
    )
