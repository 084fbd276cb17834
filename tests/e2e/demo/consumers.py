"""Steps about the consuming side: the block daemon restarted, a consumer fenced."""

from __future__ import annotations

from typing import Final

from tests.e2e.demo.servers import GO_ON_S, WRITES, right
from tests.e2e.demo.world import NODE, OTHER_NODE, World
from tests.e2e.lib.cluster import CommandFailedError
from tests.e2e.lib.content import BLOCK_BYTES
from tests.e2e.lib.ticker import Ticker
from tests.e2e.lib.waits import wait_for
from tests.e2e.lib.writer import Region, Writer, verify
from tests.e2e.lib.writer import Report as WriterReport

FENCED_VOLUME: Final = "demo-fenced"
FENCED_SIZE: Final = "256M"
FENCED_SLOTS: Final = 256
FENCED_THREADS: Final = 8
"""So many writes are under way when the consumer freezes, and as many come afterwards."""

OLD_SEED, LATE_SEED, NEW_SEED = 1001, 1002, 1003
LATE_WAIT_S: Final = 60.0


def restart_block(world: World) -> None:
    """Kill the block daemon under load and start it again."""
    report, cluster = world.report, world.cluster
    with world.load():
        ticker, writer = Ticker(), Writer(world.writer_region())
        writer.goes_on(WRITES, GO_ON_S)
        cluster.cli("local", "stop", NODE, "--process", "block", "--signal", "KILL")
        report.line(f"{NODE}'s block daemon got SIGKILL with all volumes in use")
        cluster.cli("local", "start", NODE)
        writer.goes_on(WRITES, GO_ON_S)
        seen, stalls = writer.stop(), ticker.stop()
    world.show_gap("block daemon killed and started", seen, stalls)
    right(world, writer, seen)
    world.verify_all()


def fence(world: World) -> None:
    """Freeze a consumer in the middle of its writes and give its volume to the other one."""
    report, cluster = world.report, world.cluster
    cluster.cli("volume", "create", FENCED_VOLUME, "--size", FENCED_SIZE)
    kind = "auto" if world.mounted else "export"
    old = cluster.attach(FENCED_VOLUME, NODE, kind)
    running = Writer(_region(old, OLD_SEED), FENCED_THREADS)
    running.goes_on(WRITES, GO_ON_S)
    refused_before = cluster.server_count("nack_gen")
    cluster.cli("local", "stop", NODE, "--process", "block", "--signal", "STOP")
    late = Writer(_region(old, LATE_SEED), FENCED_THREADS)
    report.line(f"{NODE} is frozen with writes under way, and {FENCED_THREADS} more come")
    cluster.cli("volume", "detach", FENCED_VOLUME, "--node", NODE, "--force")
    new = cluster.attach(FENCED_VOLUME, OTHER_NODE, kind)
    report.line(
        f"{OTHER_NODE} has the volume, generation {old['generation']} became {new['generation']}"
    )
    successor = Writer(_region(new, NEW_SEED))
    successor.goes_on(FENCED_SLOTS, GO_ON_S)
    written = successor.stop()
    right(world, successor, written)
    before = running.writes
    cluster.cli("local", "stop", NODE, "--process", "block", "--signal", "CONT")
    wait_for(lambda: running.errors and late.errors, "refusals of late writes", LATE_WAIT_S)
    _judge(world, running.stop(), before, late.stop())
    world.check_content(
        f"{FENCED_VOLUME}, as {OTHER_NODE} wrote it",
        lambda: verify(successor.region, written) * BLOCK_BYTES,
    )
    _clear(world)
    report.line(f"the servers refused {cluster.server_count('nack_gen') - refused_before} frames")
    world.verify_all()


def _judge(world: World, running: WriterReport, before: int, late: WriterReport) -> None:
    """Nothing that began after the freeze may be acknowledged."""
    report = world.report
    report.check("none of the late writes was acknowledged", holds=late.writes == 0)
    # What the copies had stored before the volume changed hands is no late write: its
    # acknowledgement lay unread in the frozen process. No thread can have more than one of those.
    kept = running.writes - before
    report.check("what was under way was refused or stored before", holds=kept <= FENCED_THREADS)
    refused = f"{late.errors + running.errors} ({late.first_error})"
    report.figure("late writes refused", refused)
    report.line(f"{kept} were stored before the change of hands and only acknowledged now")


def _region(attached: dict[str, str], seed: int) -> Region:
    return Region(attached["device"] or attached["nbd_uri"], 0, FENCED_SLOTS, seed)


def _clear(world: World) -> None:
    """Detach at both and delete; the fenced device at the old consumer only goes with force."""
    cluster = world.cluster

    def gone() -> bool:
        try:
            cluster.cli("volume", "detach", FENCED_VOLUME, "--node", NODE, "--force")
        except CommandFailedError as error:
            world.report.line(f"detach is repeated: {error}")
            return False
        return True

    wait_for(gone, f"the fenced device at {NODE} is gone", GO_ON_S, poll_s=1.0)
    cluster.cli("volume", "detach", FENCED_VOLUME, "--node", OTHER_NODE)
    cluster.cli("volume", "delete", FENCED_VOLUME)
    world.report.line(f"{FENCED_VOLUME} is deleted")
