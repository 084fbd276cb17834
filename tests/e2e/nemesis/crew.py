"""The connections of one volume's load, each a thread, which rest when they are told to."""

from __future__ import annotations

import threading
import time
from typing import Any, Final

from tests.e2e.lib.content import BLOCK_BYTES
from tests.e2e.nemesis.load import AFTER_ERROR_S, Connection
from tests.e2e.nemesis.mix import Target, Task

SWEEP_BLOCKS: Final = 256
SWEEP_S: Final = 60.0
REST_S: Final = 130.0  # longer than one request may take
LOOK_S: Final = 0.02


class CrewError(Exception):
    """It could not be done in time; the message says what."""


class Crew:
    """Rests after construction; ``go`` lets it work."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._connections = [Connection(task, index) for index in range(task.connections)]
        self._change = threading.Condition()
        self._resting, self._ended, self._busy = True, False, 0
        self._failure = ""
        self._threads = [
            threading.Thread(target=self._work, args=(each,), daemon=True)
            for each in self._connections
        ]
        for thread in self._threads:
            thread.start()

    def go(self) -> None:
        """Work."""
        with self._change:
            self._resting = False
            self._change.notify_all()

    def rest(self, deadline_s: float = REST_S, *, give_up: bool = False) -> None:
        """Work no more, and return when nothing is under way; or give up what is."""
        with self._change:
            self._resting = True
            self._change.notify_all()
        if give_up:
            self._give_up(deadline_s)
        with self._change:
            if not self._change.wait_for(lambda: self._busy == 0, deadline_s):
                raise CrewError(f"{self._busy} requests did not end within {deadline_s:.0f} s")
            if self._failure:
                raise CrewError(self._failure)

    def _give_up(self, deadline_s: float) -> None:
        end = time.monotonic() + deadline_s
        quiet = False
        while not quiet and time.monotonic() < end:
            self.abandon()  # again: one may just have connected to a server that says nothing
            with self._change:
                quiet = self._change.wait_for(lambda: self._busy == 0, LOOK_S)

    def abandon(self) -> None:
        """Break every connection: what is open ends as lost."""
        for each in self._connections:
            each.abandon()

    def attach(self, target: Target) -> None:
        """Go on elsewhere."""
        for each in self._connections:
            each.attach(target)

    def sweep(self, deadline_s: float = SWEEP_S) -> int:
        """Rest and read every block once; blocks that it were."""
        self.rest(deadline_s)
        end = time.monotonic() + deadline_s
        blocks = self._task.layout.blocks(self._task.connections)
        for first in range(0, blocks, SWEEP_BLOCKS):
            count = min(SWEEP_BLOCKS, blocks - first)
            while not self._connections[0].read(first, count):
                with self._change:
                    self._change.wait_for(lambda: self._ended, AFTER_ERROR_S)
                if time.monotonic() > end:
                    raise CrewError(f"block {first} could not be read within {deadline_s:.0f} s")
        return blocks

    def rotate(self) -> None:
        """Rest and begin new segments of all journals: those before may be made a base."""
        self.rest()
        for each in self._connections:
            each.rotate()

    def counts(self) -> dict[str, Any]:
        """Requests so far by what became of them, and those under way."""
        total: dict[str, Any] = {"busy": self._busy}
        for each in self._connections:
            for name, count in each.counts.items():
                total[name] = total.get(name, 0) + count
        return total

    def end(self) -> None:
        """Give up what is open, and end."""
        with self._change:
            self._ended = True
            self._change.notify_all()
        for thread, each in zip(self._threads, self._connections, strict=True):
            while thread.is_alive():  # it may be about to connect
                each.abandon()
                thread.join(LOOK_S)
            each.close()

    def _work(self, connection: Connection) -> None:
        pause_s = 0.0
        while True:
            with self._change:
                self._change.wait_for(lambda: self._ended, pause_s)
                self._change.wait_for(lambda: self._ended or not self._resting)
                if self._ended:
                    return
                self._busy += 1
            good = False
            try:
                good = connection.step()
            except Exception as error:  # noqa: BLE001 - e.g. no space for a journal: told by `rest`
                self._failure = f"a connection gave up: {error!r}"
                return
            finally:
                with self._change:
                    self._busy -= 1
                    self._change.notify_all()
            pause_s = self._task.think_s if good else AFTER_ERROR_S


def volume_bytes(task: Task) -> int:
    """How large the volume must be at least."""
    return task.layout.blocks(task.connections) * BLOCK_BYTES
