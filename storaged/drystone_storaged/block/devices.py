"""The attachers of this host, made when they are first needed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Literal

from drystone_storaged.attach.interface import Attacher, AttacherKind, InFlight, none_in_flight
from drystone_storaged.attach.probe import Host, make


class Devices:
    """Gives attachers by kind; ``preferred`` is what AUTO means, if it is set."""

    def __init__(
        self,
        state_dir: Path,
        preferred: Literal["auto", "nbd", "fuse", "export"],
        host: Host,
        in_flight: InFlight = none_in_flight,
    ) -> None:
        self._state_dir = state_dir
        self._host = host
        self._in_flight = in_flight
        self._made: dict[AttacherKind, Attacher] = {}
        self._lock = asyncio.Lock()
        self._preferred = None if preferred == "auto" else AttacherKind(preferred)

    def kinds(self) -> tuple[AttacherKind, ...]:
        """What AUTO stands for, then everything else that works here."""
        kinds = self._host.kinds()
        if self._preferred is None:
            return kinds
        return (self._preferred, *(kind for kind in kinds if kind is not self._preferred))

    def choose(self, wanted: AttacherKind | None) -> AttacherKind:
        """The kind that a request means."""
        return wanted or self.kinds()[0]

    async def get(self, kind: AttacherKind) -> Attacher:
        """The attacher, or the typed error that says what is missing."""
        async with self._lock:
            if kind not in self._made:
                self._made[kind] = await make(kind, self._state_dir, self._host, self._in_flight)
            return self._made[kind]

    async def aclose(self) -> None:
        """Stop watching; devices stay."""
        for attacher in self._made.values():
            await attacher.aclose()
