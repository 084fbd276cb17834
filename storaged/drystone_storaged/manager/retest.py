"""Testing drives by real operations, and bringing those back that were slow and pass.

A test means something only beside others of the same kind at the same moment: the same reads and
durable writes run on some of them, and their times are the measure.
"""

from __future__ import annotations

import asyncio
import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from drystone_common.errors import DrystoneError, NotFoundError, UnavailableError
from drystone_common.logs import get_logger
from drystone_storaged.cluster import health as book
from drystone_storaged.cluster.events import EventBook
from drystone_storaged.cluster.health import HealthService, is_ready
from drystone_storaged.cluster.leadership import Leadership
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.records import Drive, DriveHealth, DriveState
from drystone_storaged.cluster.store import MetadataStore
from drystone_storaged.manager.bell import BACKSTOP_S, Bell
from drystone_storaged.manager.commander import EXERCISE_S, Commander
from drystone_storaged.manager.slow import passes

log = get_logger(__name__)

OTHERS_MAX: Final = 3  # a median of three; each of them does some hundred operations more
AGAIN_S: Final = 5.0  # after a test that could not be made
LOAD_S: Final = 1.0  # between two looks: rings come with every change of the map

STILL_EJECTED: Final = (
    "it is ejected and stays out, `drystone drive retest {} --forgive` brings it back"
)
NOT_BACK: Final = "it is still out, its server has not said that it is ready: it is tested again"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a test found; ``others``: of how many other drives there were times to compare with."""

    passed: bool
    text: str
    others: int


@dataclass(frozen=True, slots=True)
class RetestDeps:
    """What the tests work with."""

    store: MetadataStore
    leadership: Leadership
    health: HealthService
    commander: Commander
    events: EventBook
    connected: Callable[[str], bool]
    wall: Callable[[], float]


def kin(state: MapState, drive: Drive) -> frozenset[int]:
    """Drives of the same kind, which serve the same pools: pools choose drives by class alone."""
    return frozenset(
        d.id
        for d in state.drives.values()
        if d.state is DriveState.UP and d.drive_class == drive.drive_class
    )


class Tester:
    """Runs one test."""

    def __init__(self, deps: RetestDeps) -> None:
        self._deps = deps

    async def test(
        self, state: MapState, drive: Drive, limit_s: float = EXERCISE_S
    ) -> Outcome | None:
        """A drive beside others of its kind; None where it did not answer."""
        others = sorted(kin(state, drive) - {drive.id})
        named = [state.drives[n] for n in others if self._deps.connected(state.drives[n].node)]
        asked = [drive, *named[:OTHERS_MAX]]
        found = await asyncio.gather(
            *(self._deps.commander.exercise(d.node, d.id, limit_s) for d in asked)
        )
        times = [f.p99_us for f in found[1:] if f is not None and not f.errors]
        own = found[0]
        if own is None:
            return Outcome(False, "no answer in time", len(times)) if times else None
        text = f"{own.p99_us / 1000:.1f} ms"
        if times:
            text += f", others {statistics.median(times) / 1000:.1f} ms"
        if own.errors:
            text += f", {own.errors} operations failed or did not end"
        return Outcome(passes(own.p99_us, own.errors, times), text, len(times))


class Retests:
    """Tests drives that are out because they were slow, when their time has come."""

    def __init__(self, deps: RetestDeps) -> None:
        self._deps = deps
        self.tester = Tester(deps)
        # One at a time: two tests of one drive would be each other's load.
        self._busy = asyncio.Lock()
        self.bell = Bell()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            pause_s = await self._look() if self._deps.leadership.leads else BACKSTOP_S
            await asyncio.sleep(LOAD_S)
            await self.bell.wait(pause_s)

    async def _look(self) -> float:
        try:
            return await self.look()
        except DrystoneError as error:
            log.warning("testing drives failed, will try again", reason=str(error))
            return AGAIN_S

    async def look(self) -> float:
        """Test whoever is due; gives after how long to look again unasked."""
        found = await self._deps.health.load()
        if not any(health.held for health in found.values()):
            return BACKSTOP_S
        state = await read_state(self._deps.store)
        pause_s = BACKSTOP_S
        for health in found.values():
            drive = state.drives.get(health.drive)
            if drive is None or not health.held or health.ejected or not is_ready(drive):
                continue
            left_s = book.wait_s(health, self._deps.wall())
            if left_s <= 0 and self._deps.connected(drive.node):
                left_s = await self._test_again(drive.id)
            pause_s = min(pause_s, max(left_s, LOAD_S))
        return pause_s

    async def _test_again(self, number: int) -> float:
        try:
            await self.test(number)
        except UnavailableError as error:
            log.info("a drive could not be tested", drive=number, reason=str(error))
        return AGAIN_S

    async def test(self, number: int) -> Outcome:
        """Test a drive now; one that is out because it was slow comes back if it passes."""
        async with self._busy:
            state = await read_state(self._deps.store)
            drive = state.drives.get(number)
            if drive is None or drive.state is DriveState.GONE:
                raise NotFoundError(f"there is no drive {number}", code="drive_not_found")
            outcome = await self.tester.test(state, drive)
            if outcome is None:
                raise UnavailableError(
                    f"drive {number} could not be tested",
                    code="drive_not_tested",
                    hint="its server is away, does not serve it, or tests it already",
                )
            return await self._settle(drive, state.drive_revisions[number], outcome)

    async def _settle(self, drive: Drive, revision: int, outcome: Outcome) -> Outcome:
        """What follows from it; gives it with the reason where a drive that passed stays out."""
        health, _ = await self._deps.health.of(drive.id)
        log.info("a drive was tested", drive=drive.id, passed=outcome.passed, found=outcome.text)
        if not health.held or drive.state is not DriveState.DOWN:
            return outcome
        if not outcome.passed:
            await self._deps.health.edit(
                drive.id, lambda now: book.failed(now, outcome.text, self._deps.wall())
            )
            self._note(drive, "drive_not_passed", f"failed its test: {outcome.text}", "Warning")
            return outcome
        if health.ejected:
            return replace(outcome, text=f"{outcome.text}; {STILL_EJECTED.format(drive.id)}")
        if await self._deps.health.bring_back(drive, revision):
            self._note(drive, "drive_passed", f"passed its test ({outcome.text}), is back")
            return outcome
        return replace(outcome, text=f"{outcome.text}; {NOT_BACK}")

    def _note(self, drive: Drive, kind: str, text: str, level: str = "Normal") -> None:
        self._deps.events.note(kind, f"drive {drive.id} on {drive.node_name}", text, level)

    async def forgive(self, number: int) -> DriveHealth:
        """A person says that nothing is to be held against a drive any more."""
        health = await self._deps.health.edit(number, book.forgiven)
        log.info("a drive is forgiven", drive=number)
        self.bell.ring()
        return health
