"""The native core with waits: what its events mean to one attachment at a time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from drystone_common.errors import DataError, UnavailableError
from drystone_common.logs import get_logger
from drystone_storaged.agent.pump import Event
from drystone_storaged.attach.interface import Endpoint
from drystone_storaged.block.core import BlockCore

_log = get_logger(__name__)


class EngineState(StrEnum):
    """The sequencer's states, as the native side names them."""

    DETACHED = "detached"
    ATTACHING = "attaching"
    SEALING = "sealing"
    ROLLING = "rolling"
    ACTIVATING = "activating"
    ACTIVE = "active"
    STALLED = "stalled"
    FENCED = "fenced"


@dataclass(slots=True)
class EngineVolume:
    """One volume inside the core."""

    generation: int = 0
    state: EngineState = EngineState.ATTACHING
    reason: str = ""
    ticket_serial: int = 0
    clean: bool = False
    news: asyncio.Condition = field(default_factory=asyncio.Condition)


SETTLED: Final = (EngineState.ACTIVE, EngineState.STALLED, EngineState.FENCED)


class Engine:
    """Starts and ends sequencers. ``want_activate`` and ``fenced`` are told to callbacks."""

    def __init__(
        self,
        core: BlockCore,
        want_activate: Callable[[int, int], None],
        fenced: Callable[[int], None],
    ) -> None:
        self.core = core
        self._want_activate = want_activate
        self._fenced = fenced
        self._volumes: dict[int, EngineVolume] = {}
        self._wakers: set[asyncio.Task[None]] = set()

    def get(self, volume: int) -> EngineVolume | None:
        """The volume inside the core, if it is there."""
        return self._volumes.get(volume)

    def start(
        self, volume: int, ticket: bytes, endpoint: Endpoint, *, recover: bool, near: str
    ) -> EngineVolume:
        """Start a sequencer; its NBD socket listens when this returns or `attach_failed` comes."""
        endpoint.socket.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        Path(endpoint.socket).unlink(missing_ok=True)
        config = {
            "socket": str(endpoint.socket),
            "export": endpoint.export,
            "recover": recover,
            "near_node": near or None,
        }
        made = EngineVolume()
        self._volumes[volume] = made
        try:
            self.core.attach(ticket, json.dumps(config))
        except Exception as error:
            del self._volumes[volume]
            raise DataError(f"the engine refused to attach: {error}", code="engine") from error
        return made

    async def settled(self, volume: int) -> EngineVolume:
        """Wait until the volume is active, or is known not to become so; the caller bounds it."""
        found = self._volumes[volume]
        async with found.news:
            await found.news.wait_for(lambda: found.state in (*SETTLED, EngineState.DETACHED))
        if found.state is EngineState.DETACHED:
            raise UnavailableError(
                f"the volume could not be attached: {found.reason or 'it was detached'}",
                code="attach_failed",
            )
        return found

    async def ticket_in_force(self, volume: int, serial: int) -> None:
        """Wait until a ticket at least that new is in force; the caller bounds it."""
        found = self._volumes[volume]
        async with found.news:
            await found.news.wait_for(lambda: found.ticket_serial >= serial)

    async def stats(self) -> dict[str, Any]:
        """Counters of every volume."""
        try:
            found: dict[str, Any] = json.loads(await asyncio.to_thread(self.core.stats))
        except Exception as error:
            raise UnavailableError(f"the engine does not answer: {error}", code="engine") from error
        return found

    async def size(self, volume: int) -> int:
        """The size in force."""
        found = (await self.stats())["volumes"].get(str(volume))
        return int(found["size"]) if found else 0

    async def in_flight(self, volume: int) -> int:
        """Requests taken and not answered, whether their connection lives or not."""
        found = (await self.stats())["volumes"].get(str(volume))
        return int(found["io"]["in_flight"]) if found else 0

    async def end(self, volume: int) -> bool:
        """Drain and end; True if the end was clean. The caller bounds the wait."""
        found = self._volumes.get(volume)
        if found is None:
            return False
        if found.state is not EngineState.DETACHED:
            self.core.detach(volume)
            async with found.news:
                await found.news.wait_for(lambda: found.state is EngineState.DETACHED)
        self._volumes.pop(volume, None)
        return found.clean

    def on_state(self, event: Event) -> None:
        """Take `state`."""
        self._tell(event, state=EngineState(event["state"]))

    def on_fenced(self, event: Event) -> None:
        """Take `fenced`."""
        _log.warning("volume_fenced", **dict(event))
        self._tell(event, state=EngineState.FENCED, reason=str(event["reason"]))
        self._fenced(event["volume"])

    def on_detached(self, event: Event) -> None:
        """Take `detached`."""
        found = self._volumes.get(event["volume"])
        if found is not None:
            found.clean = bool(event["clean"])
        self._tell(event, state=EngineState.DETACHED)

    def on_attach_failed(self, event: Event) -> None:
        """Take `attach_failed`."""
        _log.error("attach_failed", **dict(event))
        self._tell(event, state=EngineState.DETACHED, reason=str(event["reason"]))

    def on_invariant(self, event: Event) -> None:
        """Take `invariant`: the sequencer answers EIO from here on."""
        _log.error("invariant_broken", **dict(event))
        self._tell(event, state=EngineState.FENCED, reason=f"defect: {event['what']}")

    def on_ticket_in_force(self, event: Event) -> None:
        """Take `ticket_in_force`."""
        found = self._volumes.get(event["volume"])
        if found is not None:
            found.ticket_serial = max(found.ticket_serial, event["serial"])
        self._tell(event)

    def on_want_activate(self, event: Event) -> None:
        """Take `want_activate`."""
        self._want_activate(event["volume"], event["generation"])

    def _tell(
        self, event: Event, *, state: EngineState | None = None, reason: str | None = None
    ) -> None:
        found = self._volumes.get(event["volume"])
        if found is None:
            return
        found.generation = max(found.generation, event.get("generation", 0))
        if state is not None and not (
            found.state is EngineState.FENCED and state is not EngineState.DETACHED
        ):
            found.state = state
            found.reason = reason or ""
        elif reason:
            found.reason = reason
        waker = asyncio.get_running_loop().create_task(_wake(found))
        self._wakers.add(waker)
        waker.add_done_callback(self._wakers.discard)


async def _wake(volume: EngineVolume) -> None:
    async with volume.news:
        volume.news.notify_all()
