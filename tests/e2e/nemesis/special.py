"""Laps that look at more than how long clients wait, and which laps there are."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from tests.e2e.lib.waits import wait_for
from tests.e2e.nemesis import acts, drives
from tests.e2e.nemesis.collect import collect
from tests.e2e.nemesis.faults import CHOICES, Effect, Fault
from tests.e2e.nemesis.judge import Outcome
from tests.e2e.nemesis.laps import Seen, judge, observed, play, quiet
from tests.e2e.nemesis.resync import resync
from tests.e2e.nemesis.timeline import attempts_after, requests
from tests.e2e.nemesis.volumes import Volume
from tests.e2e.nemesis.world import GO_ON, GO_ON_S, World

QUIET_S: Final = 10.0
SHORT_QUIET_S: Final = 3.0
SCRAPE_S: Final = 1.0  # a daemon counts anew only while somebody asks

ORDERED: Final = ("flush-die", "drive-eio", "drive-slow", "drive-full")
"""What only servers can play whose drives fail on order."""

ALONE: Final = ("long-stop", "all", "all-but-one", *ORDERED)
PAIRED: Final = tuple(name for name in CHOICES if name not in ALONE)

Lap = Callable[[World, int], Outcome]


def one_way(world: World, number: int) -> Outcome:
    """Who does not reach a member sends through another one: nobody is dropped, all stays whole."""
    outcome = play(world, "one-way", number, _while_one_way)
    outcome.must(outcome.notes["relays"] > 0, "no request was relayed, so nothing was cut")
    return outcome


def _while_one_way(world: World, fault: Fault, outcome: Outcome) -> None:
    before = world.meters.look().get("block.relays", 0)
    end = time.monotonic() + fault.lasts_s
    while time.monotonic() < end:
        world.lasts(SCRAPE_S)
        outcome.notes["relays"] = world.meters.look().get("block.relays", 0) - before
    outcome.must(world.plant.in_sync(), "the pool was not whole while one direction was cut")


def all_but_one(world: World, number: int) -> Outcome:
    """Two of three copies serve, and the third comes back to them."""
    return play(world, "all-but-one", number, _while_one_is_away)


def _while_one_is_away(world: World, fault: Fault, outcome: Outcome) -> None:
    began = time.monotonic()
    world.goes_on()
    outcome.notes["served_s"] = time.monotonic() - began
    world.lasts(max(SCRAPE_S, fault.lasts_s - outcome.notes["served_s"]))
    world.goes_on()


def pair(world: World, number: int) -> Outcome:
    """Two things at once, as they come: nothing may be lost, and all must be whole again."""
    return play(world, "pair", number, kinds=world.chance.sample(PAIRED, 2))


def steal(world: World, number: int) -> Outcome:
    """A frozen owner's volume is given to another daemon, and the old one wakes up and writes."""
    outcome = Outcome("steal", number)
    volume = world.chance.choice(world.volumes.all)
    name = f"block-{volume.place.group}"
    world.steps.say(f"lap {number}: steal ({volume.name} from a stopped {name})")
    world.go()
    with observed(world) as seen:
        _stolen(world, outcome, volume, name, seen)
        world.whole()
    judge(world, seen, outcome, frozenset({Effect.UNKNOWN, Effect.AWAY}))
    outcome.notes["nack_gen"] = seen.counted.get("server.nack_gen", 0)
    return outcome


def _stolen(world: World, outcome: Outcome, volume: Volume, name: str, seen: Seen) -> None:
    with world.volumes.late(volume) as late:
        late.go()
        late.goes_on(GO_ON, GO_ON_S)
        world.goes_on()
        seen.begin = time.monotonic()
        acts.perform([acts.Signal((name,), signal.SIGSTOP)], world.net, world.plant)
        try:
            old, attach = world.volumes.steal(volume)
            volume.client.goes_on(GO_ON, GO_ON_S)
        finally:
            acts.perform([acts.Signal((name,), signal.SIGCONT)], world.net, world.plant)
        outcome.notes["taken_s"] = time.monotonic() - seen.begin
        refused = int(late.counts.get("error", 0))
        wait_for(
            lambda: int(late.counts.get("error", 0)) >= refused + GO_ON,
            "changes of the old owner refused", GO_ON_S,
        )  # fmt: skip
        late.rest(give_up=True)
    world.volumes.forget_dead(volume, old)
    _count_attempts(world, outcome, volume, attach)


def _count_attempts(world: World, outcome: Outcome, volume: Volume, attach: int) -> None:
    fence = collect(volume.folder).history.fences[attach]
    tried = attempts_after(requests(volume.folder), attach, fence)
    outcome.notes |= {"attempts": tried.made, "refused": tried.refused, "lost": tried.lost}
    outcome.must(tried.made > 0 and tried.refused > 0, f"the old owner tried nothing: {tried}")
    outcome.must(not tried.accepted, f"changes of the old owner were acknowledged: {tried}")
    world.totals.attempts += tried.made
    world.totals.refused += tried.refused
    world.totals.lost_attempts += tried.lost


def _ordinary(name: str) -> Lap:
    def lap(world: World, number: int) -> Outcome:
        return play(world, name, number)

    return lap


LAPS: Final[Mapping[str, Lap]] = {
    "quiet": partial(quiet, seconds=QUIET_S),
    **{name: _ordinary(name) for name in CHOICES},
    "one-way": one_way,
    "all-but-one": all_but_one,
    "pair": pair,
    "steal": steal,
    "resync": resync,
    "flush-die": drives.flush_die,
    "drive-eio": drives.eio,
    "drive-slow": drives.slow,
    "drive-full": drives.full,
    "replace": drives.replace,
    "rot": drives.rot,
}

SHORT: Final = ("quiet", "kill", "stop", "cut", "one-way", "leader-kill", "steal", "all")
SHORT_LAPS: Final[Mapping[str, Lap]] = {**LAPS, "quiet": partial(quiet, seconds=SHORT_QUIET_S)}

NEEDED: Final = (
    "kill", "stop", "cut", "leader-kill", "leader-stop", "etcd-kill", "managers", "steal", "all",
)  # fmt: skip
"""What figures are promised of: played first, and a run in which one was never judged fails."""
