"""A server is away while much is written: what comes back with it, how fast, and at whose cost."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from tests.e2e.lib.content import BLOCK_BYTES, content
from tests.e2e.lib.nbd import Nbd
from tests.e2e.lib.percentile import percentile
from tests.e2e.nemesis import acts
from tests.e2e.nemesis.faults import Effect
from tests.e2e.nemesis.history import CHANGES
from tests.e2e.nemesis.judge import Outcome
from tests.e2e.nemesis.laps import PERCENT, Seen, judge, observed
from tests.e2e.nemesis.plant import COPIES, IN_SYNC_S
from tests.e2e.nemesis.timeline import Request, latencies, requests
from tests.e2e.nemesis.world import World

CHANGED: Final = 192 << 20  # a copy of some seconds: p99 of one second is six changes
STEP_BLOCKS: Final = 64
SIZE: Final = 256 << 20
QUIET_S: Final = 5.0
SETTLE_S: Final = 3.0  # what was written here in one go still keeps the host's disk busy
GONE_S: Final = 60.0
REPORTED_S: Final = 30.0  # servers report every 5 s
MOVED_MAX: Final = 1.1
P99_MAX: Final = 3.0
REPORT_S: Final = 6.0  # longer than that


@dataclass(slots=True)
class Bulk:
    """Known data on a volume of its own. ``rounds``: how often all of it was written."""

    uri: str
    seed: int
    rounds: int = 0

    def write(self) -> None:
        """Write all of it anew."""
        self.rounds += 1
        self._each(lambda nbd, first, data: nbd.write(first * BLOCK_BYTES, data, fua=False))

    def wrong(self) -> int:
        """Pieces that do not hold what was written last."""
        found: list[int] = []

        def compare(nbd: Nbd, first: int, data: bytes) -> None:
            if nbd.read(first * BLOCK_BYTES, len(data)) != data:
                found.append(first)

        self._each(compare)
        return len(found)

    def _each(self, work: Callable[[Nbd, int, bytes], None]) -> None:
        nbd = Nbd(self.uri)
        try:
            for first in range(0, CHANGED // BLOCK_BYTES, STEP_BLOCKS):
                blocks = range(first, first + STEP_BLOCKS)
                work(nbd, first, b"".join(content(self.seed, b, self.rounds) for b in blocks))
        finally:
            nbd.close()


def resync(world: World, number: int) -> Outcome:
    """Once with nothing else to do, once with clients that must not suffer from it."""
    outcome = Outcome("resync", number)
    group = world.chance.choice(world.lab.server_groups)
    world.steps.say(
        f"lap {number}: resync (server-{group} away while {CHANGED >> 20} MiB are written)"
    )
    uri, _ = world.volumes.attached("bulk", world.lab.block_groups[0], SIZE)
    bulk = Bulk(uri, world.lab.seed)
    bulk.write()
    with observed(world) as seen:
        world.rest()
        began, ended = _away(world, bulk, group)
        _judge_bytes(world, outcome, group, ended - began)
        world.go()
        world.goes_on()
        quiet = [_quiet(world)]
        busy = _away(world, bulk, group)
        world.lasts(SETTLE_S)
        quiet.append(_quiet(world))
        world.whole()
    _judge_p99(world, seen, outcome, quiet, busy)
    judge(world, seen, outcome, frozenset({Effect.DROP}))
    wrong = bulk.wrong()
    outcome.must(not wrong, f"{wrong} pieces of what was written meanwhile are wrong")
    return outcome


def _quiet(world: World) -> tuple[float, float]:
    """Clients, and nothing beside them."""
    begin = time.monotonic()
    world.lasts(QUIET_S)
    return begin, time.monotonic()


def _away(world: World, bulk: Bulk, group: str) -> tuple[float, float]:
    """The server dies, all is written anew, it is back: from when to when data is copied to it."""
    plant, name = world.plant, f"server-{group}"
    acts.perform([acts.Signal((name,), signal.SIGKILL)], world.net, plant)
    plant.until(lambda: not _in_sync(world, group), f"{name} dropped", GONE_S)
    bulk.write()
    world.lasts(SETTLE_S)
    acts.perform([acts.Start((name,))], world.net, plant)
    plant.until(lambda: world.meters.pg_states()["resyncing"] > 0, f"{name} joining", GONE_S)
    began = time.monotonic()
    plant.until(lambda: _all_in_sync(world), "every placement group in sync", IN_SYNC_S)
    ended = time.monotonic()
    plant.wait_in_sync()
    return began, ended


def _all_in_sync(world: World) -> bool:
    states = world.meters.pg_states()
    return 0 < states["in_sync"] == states.total()


def _in_sync(world: World, group: str) -> int:
    drives = [each for each in world.plant.asked("/v1/status")["drives"] if each["node"] == group]
    return sum(int(each["pgs"]["in_sync"]) for each in drives)


def _judge_bytes(world: World, outcome: Outcome, group: str, seconds: float) -> None:
    """Only what changed is moved. The server counts from its start, and tells it now and then.

    Of 5 servers one has only a share of the placement groups, and what of the changes lies in them
    is not known here: there the ratio is told, and not judged.
    """
    moved, end = -1, time.monotonic() + REPORTED_S
    while time.monotonic() < end:
        before, moved = moved, world.meters.of(f"server-{group}", "resync_bytes")
        if 0 < moved == before:
            break
        world.lasts(REPORT_S)
    outcome.notes["moved_ratio"] = moved / CHANGED
    outcome.notes["resync_mib_s"] = moved / (1 << 20) / seconds
    outcome.must(moved > 0, "the server told no bytes that it copied")
    if world.lab.servers == COPIES:
        outcome.judge_figure("bytes moved, in times of those changed", moved / CHANGED, MOVED_MAX)


def _judge_p99(
    world: World,
    seen: Seen,
    outcome: Outcome,
    quiet: Sequence[tuple[float, float]],
    busy: tuple[float, float],
) -> None:
    """The host changes its pace from one minute to the next: compared is with before and after.

    Where its disk stood still meanwhile, both are compared without the changes that met that too:
    a copy that is too dear then is. Where it is not, nothing can be said: the lap is not judged.
    """
    found = [each for volume in world.volumes.all for each in requests(volume.folder)]
    ratio = _compared(outcome, found, quiet, busy)
    outcome.notes |= _first_second(found, busy[0])
    stood = sum(seen.disk.within(*period) for period in (*quiet, busy))
    if ratio is not None and stood:
        outcome.notes["disk_stood_s"] = stood
        calm = [each for each in found if not seen.disk.within(each.start, each.end)]
        without = _compared(outcome, calm, quiet, busy)
        if without is None or without <= P99_MAX < ratio:
            outcome.blurred = True
            return
        ratio = max(ratio, without)
    if ratio is None:
        outcome.problems.append("no change of a client was acknowledged to compare")
        return
    outcome.judge_figure("p99 of changes while it runs, in times of before", ratio, P99_MAX)


def _compared(
    outcome: Outcome,
    found: Sequence[Request],
    quiet: Sequence[tuple[float, float]],
    busy: tuple[float, float],
) -> float | None:
    before = [each for period in quiet for each in latencies(found, CHANGES, *period)]
    during = latencies(found, CHANGES, *busy)
    if not before or not during:
        return None
    quiet_s, busy_s = percentile(before, PERCENT), percentile(during, PERCENT)
    ratio = busy_s / quiet_s
    outcome.notes |= {"p99_quiet_s": quiet_s, "p99_resync_s": busy_s, "p99_ratio": ratio}
    return ratio


def _first_second(found: Sequence[Request], began: float) -> dict[str, float]:
    """What clients see of the join itself, which is little of a long copy. Told, not judged."""
    times = latencies(found, CHANGES, began, began + 1.0)
    return {"p99_first_second_s": percentile(times, PERCENT)} if times else {}
