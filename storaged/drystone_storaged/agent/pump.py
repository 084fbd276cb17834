"""From the native side's event file to handlers, in the event loop's thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from drystone_common.errors import DrystoneError, InvariantError, UnavailableError
from drystone_common.logs import get_logger

Event = Mapping[str, Any]
Handler = Callable[[Event], None]
_log = get_logger(__name__)

EVENTS_MAX: Final = 65_536
"""What the native side keeps for a process that does not look; then it drops the oldest."""


class EventCore(Protocol):
    """The part of a native core that tells news."""

    def event_fd(self) -> int:
        """File that is readable while there is news."""
        ...

    def events(self) -> list[str]:
        """Take the news."""
        ...


class Pump:
    """Calls one handler by an event's ``kind``; handlers must not block.

    Some events are told once, and somebody waits for them. When events were lost, or cannot be
    understood, ``failure`` raises: only a new start, which reads everything anew, is right then.
    """

    def __init__(self, core: EventCore, handlers: Mapping[str, Handler]) -> None:
        self._core = core
        self._handlers = handlers
        self._fd = core.event_fd()
        self._failed: asyncio.Future[None] | None = None

    def start(self) -> None:
        """Begin; what happened before is delivered first."""
        loop = asyncio.get_running_loop()
        self._failed = loop.create_future()
        loop.add_reader(self._fd, self._ready)
        self._ready()

    async def failure(self) -> None:
        """Wait for the end of all usefulness, and raise it."""
        if self._failed is not None:
            await self._failed

    def stop(self) -> None:
        """End; the file stays open, it belongs to the core."""
        asyncio.get_running_loop().remove_reader(self._fd)

    def _ready(self) -> None:
        try:
            self.take()
        except DrystoneError as error:
            self.stop()
            if self._failed is not None and not self._failed.done():
                self._failed.set_exception(error)

    def take(self) -> None:
        """Deliver everything that is there."""
        taken = self._core.events()
        if len(taken) >= EVENTS_MAX:
            raise UnavailableError(
                f"events of the engine were lost: {len(taken)} waited, this process was too slow",
                code="events_lost",
                hint="start it again; it reads everything anew",
            )
        for text in taken:
            event = json.loads(text)
            handler = self._handlers.get(event.get("kind", ""))
            if handler is None:
                raise InvariantError(f"the native side sent an unknown event {text[:200]}")
            try:
                handler(event)
            except Exception:  # noqa: BLE001 - logged, see below
                # One bad event must not keep the next ones from being delivered.
                _log.exception("event_handler_failed", event_kind=event.get("kind"))
