"""One lap: a quiet moment, a fault, what clients see of it, its end, everything whole, the verdict.

Laps that need more than this are in `special`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Final

from tests.e2e.lib.diskprobe import DiskProbe
from tests.e2e.lib.percentile import percentile
from tests.e2e.lib.ticker import Stalls, Ticker
from tests.e2e.nemesis import acts
from tests.e2e.nemesis.faults import CHOICES, Effect, Fault, both
from tests.e2e.nemesis.history import CHANGES
from tests.e2e.nemesis.journal import Kind
from tests.e2e.nemesis.judge import Outcome, waits_of
from tests.e2e.nemesis.settings import address
from tests.e2e.nemesis.timeline import latencies, longest_gaps, requests
from tests.e2e.nemesis.told import DROPS, JOINS, Told, once
from tests.e2e.nemesis.world import World

BEFORE_S: Final = 1.0
PERCENT: Final = 99


@dataclass(slots=True)
class Seen:
    """What happened while a lap was observed. Times are CLOCK_MONOTONIC seconds."""

    begin: float = 0.0
    end: float = 0.0
    stalls: Stalls = field(default_factory=lambda: Stalls(()))
    disk: Stalls = field(default_factory=lambda: Stalls(()))
    told: list[Told] = field(default_factory=list)
    counted: Mapping[str, int] = field(default_factory=dict)

    @property
    def drops(self) -> list[Told]:
        """Members that were dropped."""
        return once(each for each in self.told if each.event in DROPS)

    @property
    def joins(self) -> list[Told]:
        """Members that came back."""
        return [each for each in self.told if each.event in JOINS]


During = Callable[[World, Fault, Outcome], None]


@contextmanager
def observed(world: World) -> Iterator[Seen]:
    """Watch the host, the managers and the engines."""
    seen = Seen()
    world.logs.news()  # what was before is not of this lap
    before = dict(world.meters.look())
    ticker, probe = Ticker(), DiskProbe(world.lab.folder)
    try:
        seen.begin = time.monotonic()
        yield seen
        seen.end = time.monotonic()
        after = world.meters.look()
        seen.counted = {name: count - before.get(name, 0) for name, count in after.items()}
        seen.told = world.logs.news()
    finally:
        try:
            seen.stalls = ticker.stop()
        finally:
            seen.disk = probe.stop()


def play(
    world: World, name: str, number: int, during: During | None = None, kinds: Sequence[str] = ()
) -> Outcome:
    """Play a lap with one of the faults of `faults`, or with two ``kinds`` of them at once."""
    outcome = Outcome(name, number)
    world.go()
    with observed(world) as seen:
        world.goes_on()
        world.lasts(BEFORE_S)
        leaders = world.leaders()
        chosen = [CHOICES[kind](world.lab, world.chance, leaders) for kind in kinds or (name,)]
        fault = reduce(both, chosen)
        fault = replace(fault, lasts_s=min(fault.lasts_s, world.lasts_max_s))
        world.steps.say(f"lap {number}: {name} ({_who(fault)})")
        seen.begin = time.monotonic()
        try:
            acts.perform(fault.begin, world.net, world.plant)
            (during or _wait)(world, fault, outcome)
        finally:
            acts.perform(fault.end, world.net, world.plant)
        ended = time.monotonic()
        world.whole()
        outcome.judge_back(time.monotonic() - ended)
    judge(world, seen, outcome, fault.effects)
    return outcome


def quiet(world: World, number: int, seconds: float) -> Outcome:
    """No fault: how long requests take on this machine as it is now."""
    outcome = Outcome("quiet", number)
    world.go()
    with observed(world) as seen:
        world.goes_on()
        seen.begin = time.monotonic()
        world.lasts(seconds)
    judge(world, seen, outcome, frozenset())
    # Net, as what is held against it: a stall of the host must not make later bars wider.
    world.quiet_s = max(world.quiet_s, outcome.wait.net_s)
    return outcome


def judge(world: World, seen: Seen, outcome: Outcome, effects: frozenset[Effect]) -> None:
    """Figures of the lap, then the verdict on every block."""
    gaps, times, failed = {}, [], 0
    world.rest()
    for each in world.volumes.all:
        found = list(requests(each.folder))
        gaps[each.name] = longest_gaps(found, seen.begin, seen.end)
        times += latencies(found, CHANGES, seen.begin, seen.end)
        failed += sum(r.kind in (Kind.ERROR, Kind.LOST) and r.end > seen.begin for r in found)
    outcome.judge_waits(waits_of(gaps, seen.stalls, seen.disk), world.quiet_s)
    outcome.longest_stall_s, outcome.longest_disk_s = seen.stalls.longest_s, seen.disk.longest_s
    outcome.must(bool(times), "no change was acknowledged in this lap")
    outcome.notes["changes"] = len(times)
    outcome.notes["write_p99_s"] = percentile(times, PERCENT) if times else 0.0
    _judge_effects(world, seen, outcome, effects, failed)
    if outcome.problems:
        world.keep_evidence(outcome.number)
    outcome.grave += world.settle()


def _judge_effects(
    world: World, seen: Seen, outcome: Outcome, effects: frozenset[Effect], failed: int
) -> None:
    outcome.notes |= {"drops": len(seen.drops), "joins": len(seen.joins), "failed": failed}
    world.totals.events["drops"] += len(seen.drops)
    world.totals.events["joins"] += len(seen.joins)
    for name in ("relays", "resends", "nack_epoch", "nack_gen"):
        world.totals.events[name] += seen.counted.get(f"block.{name}", 0)
    # A client without credits waits though its connections stand: why, where a wait is too long.
    outcome.notes["credit_waits"] = seen.counted.get("block.credit_waits", 0)
    if Effect.DROP not in effects:
        outcome.must(
            not seen.drops,
            "a member was dropped: " + "; ".join(f"{e.event}, {e.text}" for e in seen.drops),
        )
    if Effect.UNKNOWN not in effects:
        outcome.must(not failed, f"{failed} requests or connections of clients failed")


def _wait(world: World, fault: Fault, _outcome: Outcome) -> None:
    world.lasts(fault.lasts_s)


def _who(fault: Fault) -> str:
    words = []
    for act in fault.begin:
        match act:
            case acts.Signal(names, number):
                several = names if len(names) <= len(CHOICES) // 4 else (f"{len(names)} processes",)
                words.append(f"{number.name} {' '.join(several)}")
            case acts.CutOff(paths):
                words += [f"{src} to {dst} cut" for src, dst in paths]
            case acts.Isolate(group):
                words.append(f"{group} ({address(group)}) cut off")
            case acts.Disk(group, order):
                words.append(f"drive of {group}: {dict(order or {})}")
            case acts.Limit(group, mbit):
                words.append(f"{group} at {mbit} Mbit/s")
            case _:
                words.append(type(act).__name__.lower())
    return ", ".join(words)
