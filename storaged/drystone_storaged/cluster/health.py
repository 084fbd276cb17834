"""What is held against drives: strikes, tests that they owe, ejection. Decides by numbers alone.

The record is written with the change that takes a drive out or back in, in one transaction, so that
neither is there without the other, whoever leads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from drystone_common.errors import DataError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.records import Drive, DriveHealth, DriveState, Strike
from drystone_storaged.cluster.store import Compare, MetadataStore, Put
from drystone_storaged.cluster.txn import read_record, retrying

STRIKES_OUT: Final = 3
STRIKE_DAY_S: Final = 24 * 3600
"""So many strikes within a day mean a device that does well for a while and then no more."""

STRIKES_KEPT: Final = 10  # shown to people; as many as fit in a line or two
PAUSES_S: Final = (10.0, 60.0, 600.0)
"""Between the drop and the first test, then between tests: a hiccup is over in seconds; what lasts
for minutes is tried seldom, each test reads and writes a device that may be dying."""

REASON_MAX: Final = 200


def recent(health: DriveHealth | None, now_s: float) -> tuple[Strike, ...]:
    """Strikes of the last day. One of the future is of a clock that was wrong: it counts."""
    strikes = health.strikes if health else ()
    return tuple(s for s in strikes if now_s - s.at_s < STRIKE_DAY_S)


def struck(health: DriveHealth, reason: str, now_s: float, *, may_eject: bool) -> DriveHealth:
    """One strike more; ``may_eject`` is false where its copies cannot be missed."""
    kept = (*recent(health, now_s), Strike(int(now_s), reason[:REASON_MAX]))[-STRIKES_KEPT:]
    ejected = health.ejected or (may_eject and len(kept) >= STRIKES_OUT)
    return replace(
        health, strikes=kept, held=True, tried_s=int(now_s), tries=0, last="", ejected=ejected
    )


def wait_s(health: DriveHealth, now_s: float) -> float:
    """Seconds until the next test; a wall clock that was put back delays none."""
    pause_s = PAUSES_S[min(health.tries, len(PAUSES_S) - 1)]
    since_s = now_s - health.tried_s
    return pause_s - since_s if 0 <= since_s < pause_s else 0.0


def failed(health: DriveHealth, why: str, now_s: float) -> DriveHealth:
    """It did not pass."""
    return replace(health, tries=health.tries + 1, tried_s=int(now_s), last=why[:REASON_MAX])


def passed(health: DriveHealth) -> DriveHealth:
    """It may serve again; its strikes stay for their day."""
    return replace(health, held=False, tries=0, last="")


def forgiven(health: DriveHealth) -> DriveHealth:
    """Nothing is held against it any more; one that is out owes its test all the same."""
    return replace(health, strikes=(), ejected=False, held=health.out, tries=0, tried_s=0)


@dataclass(frozen=True, slots=True)
class Blow:
    """What belongs into the transaction that takes a drive out."""

    health: DriveHealth
    condition: Compare
    put: Put


class HealthService:
    """Reads and writes the records; ``known`` is what the leader last read or wrote."""

    def __init__(self, store: MetadataStore, wall: Callable[[], float]) -> None:
        self._store = store
        self._wall = wall
        self.known: Mapping[int, DriveHealth] = {}

    def ejected(self) -> frozenset[int]:
        """Drives that are out until a person says otherwise."""
        return frozenset(n for n, health in self.known.items() if health.ejected)

    def clear(self) -> None:
        """Somebody else may write them."""
        self.known = {}

    async def load(self) -> Mapping[int, DriveHealth]:
        """Every record; their number is bounded by that of the drives."""
        found: dict[int, DriveHealth] = {}
        after, more = "", True
        while more:
            page = await self._store.range(keys.HEALTH, after=after)
            for item in page.items:
                # One that cannot be read holds nothing against anybody.
                with contextlib.suppress(DataError):
                    health = decode(DriveHealth, item.value)
                    found[health.drive] = health
            after, more = page.items[-1].key if page.items else "", page.more
        self.known = found
        return found

    async def of(self, drive: int) -> tuple[DriveHealth, int]:
        """A drive's record and its revision (0 = there is none)."""
        found = await read_record(self._store, keys.health(drive), DriveHealth)
        return (found[0], found[1].mod_revision) if found else (DriveHealth(drive), 0)

    async def blow(self, drive: int, reason: str, *, may_eject: bool) -> Blow:
        """The strike that goes with a drop."""
        old, revision = await self.of(drive)
        new = struck(old, reason, self._wall(), may_eject=may_eject)
        key = keys.health(drive)
        return Blow(new, Compare.mod(key, revision), Put(key, encode(new)))

    def wrote(self, health: DriveHealth) -> None:
        """This is what the store has now."""
        self.known = {**self.known, health.drive: health}

    async def edit(self, drive: int, change: Callable[[DriveHealth], DriveHealth]) -> DriveHealth:
        """Change what is held against a drive, and nothing else."""

        async def attempt() -> DriveHealth | None:
            old, revision = await self.of(drive)
            new = change(old)
            if new == old:
                return new
            key = keys.health(drive)
            done = await self._store.txn([Compare.mod(key, revision)], [Put(key, encode(new))])
            return new if done.succeeded else None

        new = await retrying(attempt, f"health of drive {drive}")
        self.wrote(new)
        return new

    async def bring_back(self, drive: Drive, revision: int) -> bool:
        """Take a drive that passed its test for up; False = it, or what is held, changed since.

        ``revision`` is that of the drive's record before the test. Its server said that it is ready
        in this open, or it was dropped from it while it served: see ``is_ready``.
        """
        health, at = await self.of(drive.id)
        if health.ejected or not is_ready(drive):
            return False
        new = passed(health)
        back = replace(drive, state=DriveState.UP, reason="")
        keys_of = keys.health(drive.id), keys.drive(drive.id)
        done = await self._store.txn(
            [Compare.mod(keys_of[0], at), Compare.mod(keys_of[1], revision)],
            [Put(keys_of[0], encode(new)), Put(keys_of[1], encode(back))],
        )
        if done.succeeded:
            self.wrote(new)
        return done.succeeded


def is_ready(drive: Drive) -> bool:
    """Whether a drive that is down was ready in this very open, and did not end since.

    Its nonce is confirmed then: there is no earlier one that is still valid.
    """
    down = drive.state is DriveState.DOWN
    return down and drive.proven and drive.previous_nonce == 0 and not drive.ended
