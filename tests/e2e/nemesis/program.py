"""One run from beginning to end."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import drystone_native
from drystone_common.errors import DrystoneError
from tests.e2e.lib.nbd import NbdRefusedError
from tests.e2e.lib.shell import LabError, Steps
from tests.e2e.lib.waits import NotSeenError
from tests.e2e.nemesis import copies
from tests.e2e.nemesis import options as opt
from tests.e2e.nemesis.client import ClientError
from tests.e2e.nemesis.collect import NotQuietError
from tests.e2e.nemesis.journal import JournalDamagedError
from tests.e2e.nemesis.judge import Outcome
from tests.e2e.nemesis.lifecycle import Run, running
from tests.e2e.nemesis.options import Options
from tests.e2e.nemesis.plant import Plant
from tests.e2e.nemesis.report import Report
from tests.e2e.nemesis.search import TooWideError
from tests.e2e.nemesis.settings import Lab, from_environment
from tests.e2e.nemesis.special import LAPS, SHORT, SHORT_LAPS
from tests.e2e.nemesis.volumes import Volumes
from tests.e2e.nemesis.world import World

VOLUMES: Final = 4
SHORT_VOLUMES: Final = 2
CONNECTIONS: Final = 3
SHORT_LASTS_S: Final = 5.0  # longer than a silent member may stay; the long form's are 10 s
TRIES: Final = 3  # of a lap that stalls of the host or of its disk blurred
LOCK_WAIT_S: Final = 60.0  # another run's end

BROKEN: Final = (
    DrystoneError, LabError, NotSeenError, ClientError, NotQuietError, JournalDamagedError,
    TooWideError, NbdRefusedError, ConnectionError,
)  # fmt: skip
"""What a lap may end with instead of a verdict: the run ends there, and has failed."""


def play(options: Options, steps: Steps) -> Report:
    """Run it; on a failure everything that tells why stays, in a folder that is named."""
    base = from_environment(seed=options.seed, servers=options.servers)
    lab = base if options.keep is None else Lab(options.keep, base.seed, base.servers)
    report = Report(options)
    began = done = False
    try:
        with running(lab, wait_s=LOCK_WAIT_S, keep=options.keep is not None) as run:
            began = True
            try:
                _run(run, report, steps)
                done = True
            finally:
                if not done or report.failures:
                    run.keep_folder()
                    (lab.folder / "repro.txt").write_text(report.repro())
    finally:
        # One that is to be kept and was only told to end goes on the next time.
        if began and (report.failures or not (done or options.keep)):
            steps.say(f"all that tells why is in {_aside(lab.folder)}")
    return report


def _aside(folder: Path) -> Path:
    """Under another name, so that no later run goes on with what is wrong."""
    name = f"{folder.name}-failed-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    return folder.rename(folder.with_name(name))


def _run(run: Run, report: Report, steps: Steps) -> None:
    with contextlib.closing(Plant(run, faulty=report.options.faulty)) as plant:
        plant.up()
        steps.say(f"{run.lab.servers} servers are up")
        volumes = Volumes(run.lab, plant, CONNECTIONS)
        with contextlib.closing(volumes):
            volumes.open(SHORT_VOLUMES if report.options.short else VOLUMES)
            with contextlib.closing(World(run, plant, volumes, steps)) as world:
                _play(world, report)


def _play(world: World, report: Report) -> None:
    report.totals = world.totals
    if report.options.short:
        world.lasts_max_s = SHORT_LASTS_S
    report.problems += [f"before the first lap: {words}" for words in world.settle()]
    count = len(world.volumes.all)
    world.steps.say(f"{count} volumes are read: {world.totals.operations} operations")
    if not report.problems:
        _laps(world, report)
    report.quiet_s = world.quiet_s
    report.packets = world.net.counters().totals()
    report.finish(world.net.idle_kinds())


def _laps(world: World, report: Report) -> None:
    options = report.options
    end = None if options.seconds is None or options.short else time.monotonic() + options.seconds
    for name in opt.order(options):
        if end is not None and time.monotonic() >= end:
            return
        for _ in range(TRIES):
            outcome = _lap(world, name, len(report.outcomes) + 1, short=options.short)
            report.outcomes.append(outcome)
            if not outcome.grave and (not options.short or name == SHORT[-1]):
                _compare(world, outcome)
            _say(world, outcome)
            if outcome.grave:
                return  # what is wrong stays as it is
            if not outcome.blurred:
                break


def _lap(world: World, name: str, number: int, *, short: bool) -> Outcome:
    try:
        return (SHORT_LAPS if short else LAPS)[name](world, number)
    except BROKEN as error:
        return Outcome(name, number, grave=[f"the lap broke off: {error}"])


def _compare(world: World, outcome: Outcome) -> None:
    """Every copy of every block; in the short form once, at the end."""
    try:
        found = copies.compare(world)
    except (*BROKEN, drystone_native.NativeError) as error:
        outcome.grave.append(f"copies could not be compared: {error}")
        return
    world.totals.blocks_compared += found.blocks
    world.totals.blocks_told += found.settled
    outcome.notes["blocks"] = found.blocks
    outcome.grave += found.problems


def _say(world: World, outcome: Outcome) -> None:
    notes = ", ".join(f"{name} {value:.4g}" for name, value in outcome.notes.items())
    disk = f", the disk stood still {outcome.wait.disk_s:.2f} s" if outcome.wait.disk_s else ""
    verdict = "passed" if outcome.passed else "not judged" if outcome.blurred else "FAILED"
    world.steps.say(
        f"lap {outcome.number}: {outcome.name} {verdict}, longest wait {outcome.wait.gap_s:.2f} s, "
        f"net {outcome.wait.net_s:.2f} s{disk}; {notes}"
    )
    for problem in (*outcome.grave, *outcome.problems):
        world.steps.say(f"  {problem}")
