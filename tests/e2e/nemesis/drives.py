"""Laps of drives: one without room, one replaced by a blank one, and bytes that rot in files."""

from __future__ import annotations

import errno
import re
import signal
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from drystone_storaged.manager.slow import SLOW_FACTOR
from tests.e2e.lib.content import BLOCK_BYTES
from tests.e2e.lib.nbd import Nbd, NbdRefusedError
from tests.e2e.lib.rot import KINDS, damage
from tests.e2e.nemesis import acts, conf
from tests.e2e.nemesis.base import read_base
from tests.e2e.nemesis.faults import SLOW_US, Effect, Fault
from tests.e2e.nemesis.history import ZERO
from tests.e2e.nemesis.judge import Outcome
from tests.e2e.nemesis.laps import judge, observed, play
from tests.e2e.nemesis.stamp import stamp
from tests.e2e.nemesis.volumes import Volume
from tests.e2e.nemesis.world import World

SIZE: Final = 64 << 20
LARGE: Final = 1 << 20  # the largest write: it uses up what is granted soonest
FULL_S: Final = 5.0
GONE_S: Final = 60.0
SCRUBBED_S: Final = 120.0
ROTTEN: Final = 24  # blocks a lap: enough for each kind on one and on two copies
SLOW_DROP_S: Final = 15.0
_END: Final = re.compile(r"the end, with (\d+) sectors that no flush made durable, (\d+) of them")


def flush_die(world: World, number: int) -> Outcome:
    """A power cut between a write and its flush: what was never acknowledged may be torn."""
    return play(world, "flush-die", number, _while_flushes_hang)


def _while_flushes_hang(world: World, fault: Fault, outcome: Outcome) -> None:
    world.lasts(fault.lasts_s)
    (group,) = fault.out
    told = _END.findall((world.lab.log / f"server-{group}.log").read_text(errors="replace"))
    outcome.must(bool(told), "the server did not end as it was ordered to")
    unflushed, kept = map(int, told[-1]) if told else (0, 0)
    outcome.notes |= {"unflushed": unflushed, "kept": kept}
    outcome.must(unflushed > 0, "nothing was written that was not flushed")


def eio(world: World, number: int) -> Outcome:
    """A drive that failed stays out until its server is started anew."""
    return play(world, "drive-eio", number, _while_writes_fail)


def _while_writes_fail(world: World, fault: Fault, outcome: Outcome) -> None:
    world.lasts(fault.lasts_s)
    (group,) = fault.out
    outcome.must(not _in_sync(world, group), "a drive whose writes fail is still a member")
    dead = acts.Signal((f"server-{group}",), signal.SIGKILL)
    acts.perform([dead], world.net, world.plant)


def slow(world: World, number: int) -> Outcome:
    """Where the managers count slow drives, this one is out within 15 s."""
    return play(world, "drive-slow", number, _while_slow)


def _while_slow(world: World, fault: Fault, outcome: Outcome) -> None:
    """Slow is ten times slower than the others: where they were that slow too, it was not."""
    began = time.monotonic()
    (group,) = fault.out
    others = [f"server-{other}" for other in world.lab.server_groups if other != group]
    counts = any("strikes" in each for each in world.plant.rest.items("/v1/drives"))
    dropped = worst_s = 0.0
    while time.monotonic() - began < fault.lasts_s:
        world.lasts(0.5)
        if not dropped:
            worst_s = max(worst_s, statistics.median(map(world.meters.drive_p99_s, others)))
        if not dropped and not _in_sync(world, group):
            dropped = time.monotonic() - began
    outcome.notes |= {"dropped_s": dropped, "others_p99_s": worst_s}
    if not counts:
        return
    in_time = 0 < dropped <= SLOW_DROP_S
    if not in_time and worst_s * SLOW_FACTOR >= SLOW_US / 1e6:
        outcome.blurred = True
        return
    outcome.must(dropped > 0, f"a drive that needs {SLOW_US // 1000} ms for everything stayed")
    outcome.judge_figure("a slow drive is out after", dropped, SLOW_DROP_S, "s")


def full(world: World, number: int) -> Outcome:
    """New space is refused, and only that; what makes room cures it."""
    outcome = Outcome("drive-full", number)
    group = world.chance.choice(world.lab.server_groups)
    name = f"full-{number}"
    world.steps.say(f"lap {number}: drive-full (drive of {group} has no room)")
    world.go()
    with observed(world) as seen:
        world.goes_on()
        seen.begin = time.monotonic()
        with _ordered(world, group, {"full": True}):
            uri, _ = world.volumes.attached(name, world.lab.block_groups[0], SIZE)
            _fill(outcome, uri)
            world.lasts(FULL_S)
            world.goes_on()
        again = SIZE - BLOCK_BYTES
        world.plant.until(lambda: not _refused(uri, again), "room for new blocks again", GONE_S)
        world.whole()
    judge(world, seen, outcome, frozenset({Effect.SLOW}))
    return outcome


def _fill(outcome: Outcome, uri: str) -> None:
    """Write new space until it is refused: what was granted before may still be used (W0)."""
    steps = range(LARGE, SIZE, LARGE)
    before = next((n for n, at in enumerate(steps) if _refused(uri, at, LARGE)), None)
    outcome.must(before is not None, "no write to new space was refused with ENOSPC")
    outcome.notes["granted_mib"] = -1 if before is None else before


def _refused(uri: str, offset: int = 0, size: int = BLOCK_BYTES) -> bool:
    nbd = Nbd(uri)
    try:
        nbd.write(offset, bytes([1]) * size)
    except NbdRefusedError as error:
        return error.errno == errno.ENOSPC
    finally:
        nbd.close()
    return False


@contextmanager
def _ordered(world: World, group: str, order: dict[str, int | str | bool]) -> Iterator[None]:
    acts.perform([acts.Disk(group, order)], world.net, world.plant)
    try:
        yield
    finally:
        acts.perform([acts.Disk(group, None)], world.net, world.plant)


def replace(world: World, number: int) -> Outcome:
    """A drive is lost for good, forgotten, and a blank one comes in its place."""
    outcome = Outcome("replace", number)
    group = world.chance.choice(world.lab.server_groups)
    name = f"server-{group}"
    world.steps.say(f"lap {number}: replace (drive of {group})")
    world.go()
    with observed(world) as seen:
        world.goes_on()
        seen.begin = time.monotonic()
        acts.perform([acts.Signal((name,), signal.SIGKILL)], world.net, world.plant)
        world.plant.until(lambda: not _in_sync(world, group), f"{name} dropped", GONE_S)
        old = next(d for d in world.plant.asked("/v1/status")["drives"] if d["node"] == group)["id"]
        world.plant.until(lambda: _forgotten(world, old), f"drive {old} forgotten", GONE_S)
        conf.drive(world.lab, group).unlink()
        acts.perform([acts.Start((name,))], world.net, world.plant)
        began = time.monotonic()
        world.plant.until(lambda: _in_sync(world, group) > 0, "a blank drive in its place", GONE_S)
        world.whole()
        outcome.notes["filled_s"] = time.monotonic() - began
    judge(world, seen, outcome, frozenset({Effect.DROP, Effect.GAP}))
    return outcome


def _forgotten(world: World, drive: int) -> bool:
    world.plant.rest.delete(f"/v1/drives/{drive}")
    return True


def _in_sync(world: World, group: str) -> int:
    drives = [each for each in world.plant.asked("/v1/status")["drives"] if each["node"] == group]
    return sum(int(each["pgs"]["in_sync"]) for each in drives)


def rot(world: World, number: int) -> Outcome:
    """Bytes change in the files of one drive and of two: never read as they are, and all healed."""
    outcome = Outcome("rot", number)
    groups = world.chance.sample(world.lab.server_groups, 2)
    world.steps.say(f"lap {number}: rot (in files of {' and '.join(groups)})")
    world.rest()
    outcome.grave += world.settle()
    # What two copies have lost is on the third: none of these is on more than two damaged ones.
    damaged = _damage(world, groups)
    outcome.notes["damaged"] = damaged
    outcome.must(damaged > 0, "none of the chosen blocks was found in a file")
    with observed(world) as seen:
        world.go()
        world.goes_on()
        _scrub(world, groups)
        world.whole()
    judge(world, seen, outcome, frozenset({Effect.SLOW}))
    outcome.notes["bad_blocks"] = seen.counted.get("server.bad_blocks", 0)
    outcome.must(outcome.notes["bad_blocks"] > 0, "nobody met any damage")
    return outcome


def _damage(world: World, groups: Sequence[str]) -> int:
    chosen = [block for each in world.volumes.all for block in _settled(world, each)]
    world.chance.shuffle(chosen)
    chosen = chosen[:ROTTEN]
    both, one = chosen[: ROTTEN // 3], chosen[ROTTEN // 3 :]
    found = damage(conf.drive(world.lab, groups[0]), [*both, *one], KINDS)
    return found + damage(conf.drive(world.lab, groups[1]), both, KINDS)


def _settled(world: World, volume: Volume) -> Iterator[bytes]:
    """What blocks of a volume hold that no open request may change."""
    task = volume.task
    for block, settled in read_base(volume.folder).blocks.items():
        if settled.value != ZERO and not settled.pending:
            yield stamp(task.seed, volume.number, block, settled.value)


def _scrub(world: World, groups: Sequence[str]) -> None:
    rest = world.plant.rest
    drives = [d["id"] for d in world.plant.asked("/v1/status")["drives"] if d["node"] in groups]
    tasks = [rest.post(f"/v1/drives/{each}/scrub", {})["id"] for each in drives]
    done: Callable[[], bool] = lambda: all(  # noqa: E731
        rest.get(f"/v1/tasks/{each}")["state"] == "done" for each in tasks
    )
    world.plant.until(done, "both drives scrubbed", SCRUBBED_S)
