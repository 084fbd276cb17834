"""The control channel to the managers: one connection, calls with deadlines and repetition.

Every call of this interface is idempotent, so a lost answer is repaired by repeating it.
docs/control-api.md states the rules for callers that this module keeps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import grpc
import stamina

from drystone_common.errors import DrystoneError, InvalidArgumentError, UnavailableError
from drystone_common.logs import get_logger
from drystone_storaged.agent.status import error_of
from drystone_storaged.agent.tls_errors import SECURE, of_text, speaks_tls, trouble
from drystone_storaged.agent.trust import Trust
from drystone_storaged.proto import control_pb2_grpc

CALL_TIMEOUT_S: Final = 5.0
ATTACH_TIMEOUT_S: Final = 15.0  # may wait for a drop, which is bounded by 5 s
BACKOFF_MIN_S: Final = 0.05
BACKOFF_MAX_S: Final = 1.0
MESSAGE_BYTES_MAX: Final = 64 << 20
"""A map of 8192 placement groups is about 1 MiB; 64 MiB bounds a peer gone mad."""

_REPEAT: Final = frozenset(
    (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.ABORTED)
)
_OPTIONS: Final = (
    # No lease depends on the manager and every call has its own deadline: these only find an idle
    # connection whose other end vanished without a word. Each ping wakes threads at both ends.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    # Repetition is decided here, by the rules of the interface.
    ("grpc.enable_retries", 0),
    # Two processes of one machine must not share a connection's fate through the global pool.
    ("grpc.use_local_subchannel_pool", 1),
)

_KEEPALIVE: Final = (
    ("grpc.keepalive_time_ms", 8_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    # Of a ping that another cause had sent already: by default it is waited for a minute.
    ("grpc.http2.ping_timeout_ms", 4_000),
)
_KEEPALIVE_OF_SEVERAL: Final = (
    # A leader that froze is replaced after 2 s; who waits for it longer cannot be told anything.
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
)

_CLOSED: Final = "Socket closed"  # how gRPC tells of a peer that did not like our first bytes

_T = TypeVar("_T")
_log = get_logger(__name__)


class _RetiredError(UnavailableError):
    """The call was given up together with its manager."""

    default_code = "manager_left"


def left_with_its_manager() -> bool:
    """Whether a cancellation came from the channel, which was closed, and not from the caller."""
    task = asyncio.current_task()
    return task is None or task.cancelling() == 0


class Control:
    """The managers, of which the first that answers is used. Make it inside the event loop."""

    def __init__(self, managers: Sequence[str], ca_file: str | Path = "") -> None:
        if not managers:
            raise InvalidArgumentError(
                "no manager address is set",
                code="invalid_settings",
                hint='set managers = ["host:8461", …]',
            )
        self._addresses = tuple(managers)
        self._current = 0
        self._turn = 0
        self._credential = ""
        self._away = ""
        self._trust = Trust(ca_file)
        self._options = (*_OPTIONS, *(_KEEPALIVE_OF_SEVERAL if managers[1:] else _KEEPALIVE))
        self._channel = self._open()
        self.stub = control_pb2_grpc.ControlStub(self._channel)
        self._retired: list[asyncio.Task[None]] = []
        self._look: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        """The manager in use."""
        return self._addresses[self._current]

    @property
    def managers(self) -> int:
        """How many there are."""
        return len(self._addresses)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Who calls."""
        if not self._credential:
            return ()
        return (("authorization", f"Bearer {self._credential}"),)

    def authorize(self, credential: str) -> None:
        """Use this credential from now on."""
        self._credential = credential

    @property
    def turn(self) -> int:
        """Rises whenever another manager is used: tells which one a call was made to."""
        return self._turn

    def next_manager(self, turn: int) -> None:
        """Leave the manager of a turn; what is under way there is begun anew at the next one.

        Many calls fail with one manager: the first moves all on, later ones change nothing.
        The next one may be the same one, verified with other CA certificates.
        """
        if turn != self._turn:
            return
        if not self._trust.refresh() and len(self._addresses) == 1:
            return
        self._turn += 1
        self._current = (self._current + 1) % len(self._addresses)
        old = self._channel
        self._channel = self._open()
        self.stub = control_pb2_grpc.ControlStub(self._channel)
        self._retired = [task for task in self._retired if not task.done()]
        self._retired.append(asyncio.create_task(old.close()))

    def _open(self) -> grpc.aio.Channel:
        if not self._trust:
            return grpc.aio.insecure_channel(self.address, options=self._options)
        credentials = grpc.ssl_channel_credentials(root_certificates=self._trust.pem)
        return grpc.aio.secure_channel(self.address, credentials, options=self._options)

    async def call(
        self,
        method: Callable[
            [control_pb2_grpc.ControlAsyncStub], grpc.aio.UnaryUnaryMultiCallable[Any, _T]
        ],
        request: object,
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        within_s: float | None = None,
    ) -> _T:
        """Call until it is answered, or refused for a reason that repetition does not cure.

        ``timeout_s`` bounds one try. ``within_s`` bounds them all; None means for as long as the
        caller lives: a daemon without a manager waits.
        """
        turn = self._turn

        def repeat(error: Exception) -> bool:
            if isinstance(error, _RetiredError):
                return True
            if not isinstance(error, grpc.aio.AioRpcError) or error.code() not in _REPEAT:
                return False
            if error.code() is not grpc.StatusCode.ABORTED:
                # Also after a deadline: this manager may be gone without a word.
                self._lost(error)
                self.next_manager(turn)
            return True

        try:
            async for attempt in stamina.retry_context(
                on=repeat,
                attempts=None,
                timeout=within_s,
                wait_initial=BACKOFF_MIN_S,
                wait_max=BACKOFF_MAX_S,
                wait_jitter=BACKOFF_MAX_S / 4,
            ):
                with attempt:
                    turn = self._turn
                    answer = await self._once(method, request, timeout_s)
                    self._reached()
                    return answer
        except grpc.aio.AioRpcError as error:
            raise error_of(error, f"manager {self.address}") from error
        raise DrystoneError("the manager was not asked")  # unreachable: the loop returns or raises

    async def _once(
        self,
        method: Callable[
            [control_pb2_grpc.ControlAsyncStub], grpc.aio.UnaryUnaryMultiCallable[Any, _T]
        ],
        request: object,
        timeout_s: float,
    ) -> _T:
        try:
            return await method(self.stub)(request, timeout=timeout_s, metadata=self.metadata)
        except asyncio.CancelledError:
            if left_with_its_manager():
                raise _RetiredError("the manager was left for another one") from None
            raise

    def _lost(self, error: grpc.aio.AioRpcError) -> None:
        """Say it once, not at every repetition; again when it turns out to be another cause."""
        details = error.details() or ""
        known = of_text(details, f"manager {self.address}") if self._trust else None
        why = known.code if known else "away"
        if self._away in (why, SECURE) or (self._away and not known):
            return
        self._away = why
        if known:
            _log.warning(
                "manager_unreachable", manager=self.address, detail=known.message, hint=known.hint
            )
            return
        _log.warning("manager_unreachable", manager=self.address, detail=details)
        if not self._trust and _CLOSED in details:
            self._look = asyncio.create_task(self._speaks_tls(self.address))

    async def _speaks_tls(self, address: str) -> None:
        """A manager that closes what it does not understand may be one with TLS."""
        host, _, port = address.rpartition(":")
        if port.isdecimal() and await asyncio.to_thread(speaks_tls, host.strip("[]"), int(port)):
            known = trouble(SECURE, f"manager {address}")
            self._away = self._away and SECURE
            _log.warning(
                "manager_unreachable", manager=address, detail=known.message, hint=known.hint
            )

    def _reached(self) -> None:
        if self._away:
            self._away = ""
            _log.info("manager_reached", manager=self.address)

    async def aclose(self) -> None:
        """Close the connection."""
        if self._look is not None:
            self._look.cancel()
        await self._channel.close()
