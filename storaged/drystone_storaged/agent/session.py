"""The one open session of a process with its manager, remade for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import grpc

from drystone_common.logs import get_logger
from drystone_storaged.agent.control import Control, left_with_its_manager
from drystone_storaged.agent.pauses import MAX_S, Pauses, spread
from drystone_storaged.proto import control_pb2

OUTGOING_MAX: Final = 1024
"""Answers and statuses waiting for a manager. A session that takes none of them for so long is
dead; a new one asks again for what it needs, so dropping the oldest loses nothing."""

REFUSED_WAIT_S: Final = 2.0
"""After `node_already_connected`: the other session is older and ends within a keepalive."""

Handler = Callable[[control_pb2.SessionDown], Awaitable[None]]
_log = get_logger(__name__)


class Session:
    """Sends ``Hello`` and then what is queued; hands what arrives to a handler, in order.

    ``longest_s``: the longest pause after all managers were asked in vain. ``seen``: the newest
    incarnation and revision of the metadata store that are known here.
    """

    def __init__(
        self,
        control: Control,
        hello: control_pb2.Hello,
        handler: Handler,
        *,
        longest_s: float = MAX_S,
        seen: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self._seen = seen
        self._pauses = Pauses(control.managers, longest_s)
        self._control = control
        self._hello = hello
        self._handler = handler
        self._queue: asyncio.Queue[control_pb2.SessionUp] | None = None
        self._on_open: list[Callable[[], None]] = []
        self.connected = asyncio.Event()

    def on_open(self, call: Callable[[], None]) -> None:
        """Call this whenever a new session stands: absolute figures must be sent again."""
        self._on_open.append(call)

    def send(self, message: control_pb2.SessionUp) -> None:
        """Queue for the session that stands; without one it is dropped (the manager asks again)."""
        queue = self._queue
        if queue is None:
            return
        if queue.full():
            queue.get_nowait()
        queue.put_nowait(message)

    async def run(self) -> None:
        """Keep a session open until cancelled."""
        while True:
            turn = self._control.turn
            refused = False
            try:
                await self._one()
                self._pauses.reset()
            except grpc.aio.AioRpcError as error:
                refused = error.code() is grpc.StatusCode.ALREADY_EXISTS
                _log.warning("session_lost", code=error.code().name, detail=error.details())
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    self._control.next_manager(turn)
                if self.connected.is_set():
                    self._pauses.reset()
            except asyncio.CancelledError:
                if not left_with_its_manager():
                    raise
                _log.info("session_closed_by_manager")
                self._pauses.reset()
            finally:
                self.connected.clear()
                self._queue = None
            pause_s = self._pauses.next_s()
            await asyncio.sleep(spread(REFUSED_WAIT_S) if refused else pause_s)

    async def _one(self) -> None:
        queue: asyncio.Queue[control_pb2.SessionUp] = asyncio.Queue(OUTGOING_MAX)
        self._hello.incarnation, self._hello.highest_revision = self._seen()
        queue.put_nowait(control_pb2.SessionUp(hello=self._hello))

        # No iterator of requests: gRPC reads one in a task that it neither ends nor waits for.
        stream = self._control.stub.Session(metadata=self._control.metadata)
        sender = asyncio.create_task(_send(stream, queue), name="session-sender")
        try:
            async for message in stream:
                if message.HasField("welcome"):
                    self._opened(queue, message.welcome)
                await self._handle(message)
        finally:
            sender.cancel()
            stream.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        _log.info("session_closed_by_manager")

    async def _handle(self, message: control_pb2.SessionDown) -> None:
        try:
            await self._handler(message)
        except Exception:  # noqa: BLE001 - one message that we cannot use is not the session's end
            _log.exception("message_not_handled", message=message.WhichOneof("kind"))

    def _opened(
        self, queue: asyncio.Queue[control_pb2.SessionUp], welcome: control_pb2.Welcome
    ) -> None:
        if self._queue is queue:
            return
        self._queue = queue
        self.connected.set()
        _log.info("session_open", manager=welcome.manager)
        for call in self._on_open:
            with contextlib.suppress(asyncio.QueueFull):
                call()


async def _send(
    stream: grpc.aio.StreamStreamCall[control_pb2.SessionUp, control_pb2.SessionDown],
    queue: asyncio.Queue[control_pb2.SessionUp],
) -> None:
    """Write what is queued until the stream ends; the reader tells why it did."""
    try:
        while True:
            await stream.write(await queue.get())
    except (grpc.RpcError, asyncio.InvalidStateError):
        return
    except Exception:  # noqa: BLE001 - whatever it was, the session is of no use any more
        # A session that says nothing any more must not look alive: the manager ends it at this.
        _log.exception("session_sender_failed")
        with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
            await stream.done_writing()
