"""From the native side's event file to handlers, in the event loop's thread."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from drystone_common.errors import InvariantError
from drystone_common.logs import get_logger

Event = Mapping[str, Any]
Handler = Callable[[Event], None]
_log = get_logger(__name__)


class EventCore(Protocol):
    """The part of a native core that tells news."""

    def event_fd(self) -> int:
        """File that is readable while there is news."""
        ...

    def events(self) -> list[str]:
        """Take the news."""
        ...


class Pump:
    """Calls one handler by an event's ``kind``; handlers must not block."""

    def __init__(self, core: EventCore, handlers: Mapping[str, Handler]) -> None:
        self._core = core
        self._handlers = handlers
        self._fd = core.event_fd()

    def start(self) -> None:
        """Begin; what happened before is delivered first."""
        asyncio.get_running_loop().add_reader(self._fd, self.take)
        self.take()

    def stop(self) -> None:
        """End; the file stays open, it belongs to the core."""
        asyncio.get_running_loop().remove_reader(self._fd)

    def take(self) -> None:
        """Deliver everything that is there."""
        for text in self._core.events():
            event = json.loads(text)
            handler = self._handlers.get(event.get("kind", ""))
            if handler is None:
                raise InvariantError(f"the native side sent an unknown event {text[:200]}")
            try:
                handler(event)
            except Exception:  # noqa: BLE001 - logged, see below
                # One bad event must not keep the next ones from being delivered.
                _log.exception("event_handler_failed", event_kind=event.get("kind"))
