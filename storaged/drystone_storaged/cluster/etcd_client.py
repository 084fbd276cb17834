"""Calls to an etcd cluster: which member, login, deadlines, and what may be tried again.

A read is tried at every member until the deadline. A write goes out once, to a member with a
standing connection: if its answer is lost nobody knows whether it happened, and the caller, who
can compare, has to look.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import grpc

from drystone_common.errors import DrystoneError
from drystone_common.files import read_limited
from drystone_storaged.cluster.etcd_errors import is_bad_token, translated
from drystone_storaged.cluster.store import StoreUnavailableError
from drystone_storaged.proto import etcd_pb2 as pb
from drystone_storaged.proto import etcd_pb2_grpc as rpc

ATTEMPT_S: Final = 2.0  # one member's time: longer than an election of etcd takes (1 s default)
CALL_S: Final = 6.0  # a read's time over all members: two that hang do not cost the third its try
CONNECT_S: Final = 1.0
AHEAD_S: Final = 0.3
"""What others have to connect before the member that failed last: one that is frozen has its
connection still, while theirs, after a restart of theirs, may have to be made first."""

ANSWER_BYTES_MAX: Final = 64 << 20  # the largest page: 10,000 keys of a few KiB

Metadata = tuple[tuple[str, str], ...]
Request = TypeVar("Request")
Answer = TypeVar("Answer")

_OPTIONS: Final = (
    # etcd ends connections that ask more often than every 5 s, or without a call under way.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", ANSWER_BYTES_MAX),
)


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """Where etcd is and who we are there."""

    endpoints: tuple[str, ...]
    """``host:port`` of each member."""

    namespace: str = "/drystone"
    """Goes before every key, so that several clusters, or others, can share one etcd."""

    ca_file: Path | None = None
    """Certificates that etcd's must descend from; None = no TLS."""

    cert_file: Path | None = None
    key_file: Path | None = None
    """Our own certificate, where etcd wants one."""

    user: str = ""
    password_file: Path | None = None
    """Login, where etcd has authentication on."""


class Member:
    """One member: its channel and stubs."""

    def __init__(self, endpoint: str, channel: grpc.aio.Channel) -> None:
        self.endpoint: Final = endpoint
        self.channel: Final = channel
        self.kv: Final = rpc.KVStub(channel)
        self.watch: Final = rpc.WatchStub(channel)
        self.lease: Final = rpc.LeaseStub(channel)
        self.auth: Final = rpc.AuthStub(channel)
        self.maintenance: Final = rpc.MaintenanceStub(channel)

    async def connected(self) -> Member:
        """Return when the connection stands."""
        while (state := self.channel.get_state(try_to_connect=True)) is not _READY:
            if state is grpc.ChannelConnectivity.SHUTDOWN:
                raise StoreUnavailableError("the metadata store is closed")
            await self.channel.wait_for_state_change(state)
        return self


_READY: Final = grpc.ChannelConnectivity.READY


class EtcdClient:
    """Calls with failover. Make it inside a running event loop."""

    def __init__(self, config: EtcdConfig) -> None:
        self._config: Final = config
        self._members: Final = [Member(e, _channel(e, config)) for e in config.endpoints]
        self._current = 0
        self._failed: Member | None = None
        self._token = ""
        self._login = asyncio.Lock()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._closed

    async def read(self, call: Callable[[Member, Metadata, float], Awaitable[Answer]]) -> Answer:
        """Run a call that may be repeated, at any member, until one answers."""
        loop = asyncio.get_running_loop()
        until = loop.time() + CALL_S
        while True:
            try:
                return await self._once(call, until)
            except StoreUnavailableError as error:
                if self._closed or error.code != StoreUnavailableError.default_code:
                    raise
                if loop.time() + CONNECT_S >= until:
                    raise
                await asyncio.sleep(0.02)  # a member without a leader refuses at once: no storm

    async def write(self, call: Callable[[Member, Metadata, float], Awaitable[Answer]]) -> Answer:
        """Run a call that must not be repeated: its answer, or an error that leaves it open."""
        return await self._once(call, asyncio.get_running_loop().time() + CALL_S)

    async def stream_to(self) -> tuple[Member, Metadata]:
        """A connected member and the login for a stream."""
        until = asyncio.get_running_loop().time() + CALL_S
        member = await self._pick()
        try:
            return member, await self._metadata(member, until)
        except grpc.aio.AioRpcError as error:
            self._note(member, error)
            raise translated(error) from error

    def failed(self, member: Member) -> None:
        """The next call goes to another member."""
        self._failed = member
        if self._members[self._current] is member:
            self._current = (self._current + 1) % len(self._members)

    def forget_login(self) -> None:
        """The token was refused."""
        self._token = ""

    def cancelled_by_close(self) -> bool:
        """Closing a channel cancels its calls: that is not the cancellation of who made them."""
        task = asyncio.current_task()
        return self._closed and (task is None or task.cancelling() == 0)

    async def close(self) -> None:
        """End every connection; calls under way fail."""
        self._closed = True
        for member in self._members:
            await member.channel.close()

    async def _once(
        self, call: Callable[[Member, Metadata, float], Awaitable[Answer]], until: float
    ) -> Answer:
        for last in (False, True):
            member = await self._pick()
            try:
                metadata = await self._metadata(member, until)
                left = min(ATTEMPT_S, until - asyncio.get_running_loop().time())
                return await call(member, metadata, max(left, 0.1))
            except grpc.aio.AioRpcError as error:
                if is_bad_token(error) and self._config.user and not last:
                    self.forget_login()
                    continue
                self._note(member, error)
                raise translated(error) from error
            except asyncio.CancelledError:
                if self.cancelled_by_close():
                    raise StoreUnavailableError("the metadata store is closed") from None
                raise
        raise AssertionError("unreachable")

    def _note(self, member: Member, error: grpc.aio.AioRpcError) -> None:
        if isinstance(translated(error), StoreUnavailableError):
            self.failed(member)

    async def _pick(self) -> Member:
        """The current member if its connection stands, else the first that connects."""
        if self._closed:
            raise StoreUnavailableError("the metadata store is closed")
        order = self._members[self._current :] + self._members[: self._current]
        if order[0].channel.get_state(try_to_connect=True) is _READY:
            return order[0]
        others = [member for member in order if member is not self._failed]
        for some, within_s in ((others, AHEAD_S), (order, CONNECT_S)):
            member = await _first_connected(some, within_s)
            if member is not None:
                self._current = self._members.index(member)
                return member
        raise StoreUnavailableError(
            f"no member of etcd can be reached ({', '.join(self._config.endpoints)})",
            hint="check the addresses, the network and, with TLS, the certificates",
        )

    async def _metadata(self, member: Member, until: float) -> Metadata:
        if not self._config.user:
            return ()
        try:
            # Others may log in first, each at a member of its own that does not answer.
            async with asyncio.timeout_at(until), self._login:
                if not self._token:
                    self._token = await self._log_in(member, until)
        except TimeoutError as error:
            raise StoreUnavailableError("no login at etcd in time") from error
        return (("token", self._token),)

    async def _log_in(self, member: Member, until: float) -> str:
        path = self._config.password_file
        # Read each time: the file may hold a new password by now.
        try:
            password = read_limited(path).decode().strip() if path else ""
        except UnicodeDecodeError:  # whose text shows a piece of it
            raise StoreUnavailableError(f"the password for etcd in {path} is no text") from None
        except (DrystoneError, OSError) as error:
            raise StoreUnavailableError(f"the password for etcd cannot be read: {error}") from error
        request = pb.AuthenticateRequest(name=self._config.user, password=password)
        left = max(until - asyncio.get_running_loop().time(), 0.1)
        answer = await member.auth.Authenticate(request, timeout=min(left, ATTEMPT_S))
        return str(answer.token)


async def _first_connected(members: list[Member], within_s: float) -> Member | None:
    """The first whose connection stands."""
    tries = [asyncio.ensure_future(member.connected()) for member in members]
    if not tries:
        return None
    try:
        done, _ = await asyncio.wait(tries, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in tries:
            one.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
    good = (one.result() for one in tries if one in done and one.exception() is None)
    return next(good, None)


def _channel(endpoint: str, config: EtcdConfig) -> grpc.aio.Channel:
    if config.ca_file is None:
        return grpc.aio.insecure_channel(endpoint, options=_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=config.ca_file.read_bytes(),
        private_key=config.key_file.read_bytes() if config.key_file else None,
        certificate_chain=config.cert_file.read_bytes() if config.cert_file else None,
    )
    return grpc.aio.secure_channel(endpoint, credentials, options=_OPTIONS)
