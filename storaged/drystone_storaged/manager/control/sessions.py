"""Open sessions, and commands over them. Commands survive a reconnect until their deadline."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from drystone_common.errors import AlreadyExistsError, DeadlineError, UnavailableError
from drystone_storaged.cluster.nodes import Role
from drystone_storaged.proto import control_pb2 as pb

QUEUE_MAX: Final = 10_000  # messages to one process; a peer that reads so little is cut off
PENDING_MAX: Final = 4_096  # commands to one process at a time
ID_BITS: Final = 62  # of the first command's number: counting up from there never leaves 64

CLAIM_LASTS_S: Final = 20.0
"""From when on a second process is told of: one that was killed and started again is refused for
up to 12 s, until the keepalive says that the connection of the one before is dead."""

CLAIM_FORGOTTEN_S: Final = 30.0  # a process that is refused tries again within seconds
CLAIMS_MAX: Final = 256  # more nodes than a cluster has would all have to be copies

SessionKey = tuple[Role, str]


@dataclass(slots=True)
class Session:
    """One connected process."""

    key: SessionKey
    name: str
    instance: int
    outbox: asyncio.Queue[pb.SessionDown | None] = field(
        default_factory=lambda: asyncio.Queue(QUEUE_MAX)
    )

    def send(self, message: pb.SessionDown) -> None:
        """Queue a message; a full queue ends the session."""
        try:
            self.outbox.put_nowait(message)
        except asyncio.QueueFull:
            self.end()

    def end(self) -> None:
        """End the stream after what is queued, or at once if the queue is full."""
        if self.outbox.full():
            self.outbox.get_nowait()
        self.outbox.put_nowait(None)

    async def messages(self) -> AsyncIterator[pb.SessionDown]:
        """What goes down the stream, until the session ends."""
        while (message := await self.outbox.get()) is not None:
            yield message


@dataclass(slots=True)
class _Pending:
    command: pb.Command
    answer: asyncio.Future[pb.CommandResult]
    progress: Callable[[pb.CommandResult], None] | None
    sent: Session | None = None
    """The session that had it last: a command asked before the replay goes there once."""


@dataclass(slots=True)
class _Claim:
    """Another process with an identity that has a session."""

    name: str
    first: float
    last: float


class SessionRegistry:
    """Who is connected, and what was asked of them."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._sessions: dict[SessionKey, Session] = {}
        self._pending: dict[SessionKey, dict[int, _Pending]] = {}
        self._known: set[SessionKey] = set()
        self._gone_at: dict[SessionKey, float] = {}
        self._claims: dict[SessionKey, _Claim] = {}
        # Not from 1: a process may still be at what another manager, or this one before a restart,
        # asked under a number, and its answer would be taken for that to another command.
        self._next_id = secrets.randbits(ID_BITS) + 1
        self.on_change: list[Callable[[], None]] = []
        """Called when a session stands or is gone."""

    def open(self, key: SessionKey, name: str, instance: int) -> Session:
        """Admit a session; a second live process of one node is refused."""
        old = self._sessions.get(key)
        if old is not None and old.instance != instance:
            self._claim(key, name)
            raise AlreadyExistsError(
                f"{name} is connected already, as another process",
                code="node_already_connected",
                hint="two processes use one state folder: stop one of them",
            )
        if old is not None:
            old.end()
        session = Session(key, name, instance)
        self._sessions[key] = session
        self._known.add(key)
        self._changed()
        return session

    def replay(self, session: Session) -> None:
        """Send again what was asked and not answered."""
        for pending in list(self._pending.get(session.key, {}).values()):
            _send(session, pending)

    def close(self, session: Session) -> bool:
        """Forget a session; True if it was the current one of its process."""
        if self._sessions.get(session.key) is not session:
            return False
        del self._sessions[session.key]
        self._gone_at[session.key] = self._monotonic()
        self._changed()
        return True

    def end_all(self) -> None:
        """End every session: this manager does not lead any more, and who does has to be found."""
        for session in list(self._sessions.values()):
            session.end()
        self._sessions.clear()
        self._known.clear()
        self._gone_at.clear()
        self._claims.clear()
        for waiting in self._pending.values():
            for pending in waiting.values():
                if not pending.answer.done():
                    pending.answer.set_exception(_ended())

    def _changed(self) -> None:
        for call in self.on_change:
            call()

    def get(self, key: SessionKey) -> Session | None:
        """The live session of a process."""
        return self._sessions.get(key)

    def claimed_twice(self) -> list[str]:
        """Names of processes that a second one wants to be, for longer than a restart explains."""
        now = self._monotonic()
        return sorted(
            claim.name
            for claim in self._claims.values()
            if now - claim.last < CLAIM_FORGOTTEN_S and now - claim.first >= CLAIM_LASTS_S
        )

    def _claim(self, key: SessionKey, name: str) -> None:
        now = self._monotonic()
        fresh = {k: c for k, c in self._claims.items() if now - c.last < CLAIM_FORGOTTEN_S}
        if key in fresh:
            fresh[key].last = now
        elif len(fresh) < CLAIMS_MAX:
            fresh[key] = _Claim(name, now, now)
        self._claims = fresh

    def was_here(self, key: SessionKey) -> bool:
        """Whether this process had a session since this manager leads, even if it has none now."""
        return key in self._known

    def gone_s(self, key: SessionKey) -> float | None:
        """For how long its last session is over; None = it had none since this manager leads."""
        at = self._gone_at.get(key)
        return None if at is None else self._monotonic() - at

    def all(self, role: Role) -> list[Session]:
        """Every live session of a role."""
        return [s for key, s in self._sessions.items() if key[0] == role]

    def beacons(self) -> list[Session]:
        """Every session at whose other end a beacon may be: servers may have theirs inside."""
        return [*self.all("server"), *self.all("beacon")]

    async def command(
        self,
        node: str,
        command: pb.Command,
        deadline_s: float,
        progress: Callable[[pb.CommandResult], None] | None = None,
        *,
        role: Role = "server",
    ) -> pb.CommandResult:
        """Ask a server or its node's beacon; the answer, or ``DeadlineError``.

        Repeated when it reconnects meanwhile.
        """
        key: SessionKey = (role, node)
        waiting = self._pending.setdefault(key, {})
        if len(waiting) >= PENDING_MAX:
            raise UnavailableError("too many commands wait for one process", code="busy")
        command.id, self._next_id = self._next_id, self._next_id + 1
        command.deadline_ms = int(deadline_s * 1000)
        pending = _Pending(command, asyncio.get_running_loop().create_future(), progress)
        waiting[command.id] = pending
        session = self._sessions.get(key)
        try:
            if session is not None:
                _send(session, pending)
            async with asyncio.timeout(deadline_s):
                return await pending.answer
        except TimeoutError:
            raise DeadlineError("a server did not answer in time", code="server_silent") from None
        finally:
            waiting.pop(command.id, None)
            if not waiting and self._pending.get(key) is waiting:
                del self._pending[key]

    def answered(self, key: SessionKey, result: pb.CommandResult) -> None:
        """An answer came in; late and unknown ones are ignored."""
        pending = self._pending.get(key, {}).get(result.id)
        if pending is None:
            return
        if result.more:
            if pending.progress is not None:
                pending.progress(result)
        elif not pending.answer.done():
            pending.answer.set_result(result)


def _send(session: Session, pending: _Pending) -> None:
    if pending.sent is not session:
        pending.sent = session
        session.send(pb.SessionDown(command=pending.command))


def _ended() -> UnavailableError:
    return UnavailableError("this manager's sessions have ended", code="sessions_ended")
