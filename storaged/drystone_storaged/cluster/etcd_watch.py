"""One watch over the life of many streams: nothing is missed or told twice between them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

import grpc

from drystone_common.logs import get_logger
from drystone_storaged.cluster.etcd_client import EtcdClient, Member
from drystone_storaged.cluster.etcd_codec import Codec, prefix_end
from drystone_storaged.cluster.etcd_errors import is_bad_token, translated
from drystone_storaged.cluster.store import CompactedError, StoreUnavailableError, WatchBatch
from drystone_storaged.proto import etcd_pb2 as pb

PROGRESS_S: Final = 2.0  # an idle stream is asked for its revision this often
SILENT_S: Final = 5.0  # without any answer for so long the member is taken for dead
GIVE_UP_S: Final = 10.0  # no stream for so long: the caller hears of it and decides
BACKOFF_S: Final = (0.05, 0.1, 0.2, 0.5)

_LEADER: Final = ("hasleader", "true")
"""A member that loses its leader ends the stream instead of staying quiet."""

log = get_logger(__name__)


class _BrokenError(Exception):
    """The stream ended for a reason that another stream may not have."""


async def watch(
    client: EtcdClient, codec: Codec, prefix: str, from_revision: int
) -> AsyncGenerator[WatchBatch]:
    """Give every change of the prefix from a revision on; see ``MetadataStore.watch``."""
    loop = asyncio.get_running_loop()
    at, tries, good = from_revision, 0, loop.time()
    while True:
        try:
            async with contextlib.aclosing(_stream(client, codec, prefix, at)) as stream:
                async for batch in stream:
                    at, tries, good = batch.revision + 1, 0, loop.time()
                    if batch.events:
                        yield batch
        except (_BrokenError, StoreUnavailableError) as error:
            if client.closed:
                raise StoreUnavailableError("the metadata store is closed") from None
            if loop.time() - good > GIVE_UP_S:
                raise StoreUnavailableError(f"etcd cannot be watched: {error}") from error
            log.debug("etcd watch broke", prefix=prefix, at=at, reason=str(error))
        await asyncio.sleep(BACKOFF_S[min(tries, len(BACKOFF_S) - 1)])
        tries += 1


async def _stream(
    client: EtcdClient, codec: Codec, prefix: str, at: int
) -> AsyncGenerator[WatchBatch]:
    member, login = await client.stream_to()
    call = member.watch.Watch(metadata=(*login, _LEADER))
    try:
        first = codec.key(prefix)
        create = pb.WatchCreateRequest(key=first, range_end=prefix_end(first), start_revision=at)
        await call.write(pb.WatchRequest(create_request=create))
        async for answer in _answers(call):
            if answer.canceled:
                raise _refusal(answer)
            batch = _batch(codec, answer)
            if batch is not None:
                yield batch
    except grpc.aio.AioRpcError as error:
        raise _lost(client, member, error) from error
    except asyncio.CancelledError:
        if client.cancelled_by_close():
            raise _BrokenError("closed") from None
        raise
    except asyncio.InvalidStateError as error:  # written to a call that has ended
        client.failed(member)
        raise _BrokenError("the stream ended") from error
    except TimeoutError as error:
        client.failed(member)
        raise _BrokenError(f"{member.endpoint} says nothing") from error
    finally:
        call.cancel()


async def _answers(call: Any) -> AsyncIterator[pb.WatchResponse]:
    """Every message; an idle stream is asked for a sign of life.

    A read that is cancelled would end the stream, so one read is kept and waited for in turns.
    """
    loop = asyncio.get_running_loop()
    heard = loop.time()
    reading: asyncio.Future[Any] = asyncio.ensure_future(call.read())
    try:
        while True:
            done, _ = await asyncio.wait({reading}, timeout=PROGRESS_S)
            if not done:
                if loop.time() - heard > SILENT_S:
                    raise TimeoutError
                ask = pb.WatchRequest(progress_request=pb.WatchProgressRequest())
                async with asyncio.timeout(PROGRESS_S):
                    await call.write(ask)
                continue
            answer = reading.result()
            if answer is grpc.aio.EOF:
                raise _BrokenError("the stream ended")
            heard = loop.time()
            reading = asyncio.ensure_future(call.read())
            yield answer
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


def _batch(codec: Codec, answer: pb.WatchResponse) -> WatchBatch | None:
    """Changes, or how far nothing was missed.

    The header of an answer with events may be ahead of them, so only the events count; etcd does
    not split a revision. One without events is an answer to our question and says how far it is.
    """
    if answer.events:
        events = codec.events(answer.events)
        return WatchBatch(events[-1].mod_revision, events)
    if answer.created:
        return None
    return WatchBatch(answer.header.revision, ())


def _refusal(answer: pb.WatchResponse) -> Exception:
    if answer.compact_revision:
        return CompactedError(answer.compact_revision)
    return _BrokenError(answer.cancel_reason or "etcd ended the watch")


def _lost(client: EtcdClient, member: Member, error: grpc.aio.AioRpcError) -> Exception:
    if is_bad_token(error):
        client.forget_login()
        return _BrokenError("the login expired")
    meaning = translated(error)
    if isinstance(meaning, StoreUnavailableError):
        client.failed(member)
        return _BrokenError(meaning.message)
    return meaning
