"""Steps about storage servers: killed, frozen, started again, resynced."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from tests.e2e.demo.report import mib, seconds
from tests.e2e.demo.world import WRITER_SLOTS, World
from tests.e2e.lib.content import BLOCK_BYTES
from tests.e2e.lib.ticker import Ticker
from tests.e2e.lib.waits import wait_for
from tests.e2e.lib.writer import Report as WriterReport
from tests.e2e.lib.writer import Writer, verify

KILLED, FROZEN = "node-1", "node-2"
FREEZE_S: Final = 2.0
"""With one server dead already, writes wait as long as the second one is frozen."""

FULL_FREEZE_S: Final = 6.0  # longer than it takes to decide that a node is silent
GO_ON_S: Final = 60.0
WRITES: Final = 200
SETTLE_WRITES: Final = 50
REPORT_PERIOD_S: Final = 5.5  # a server tells its figures every 5 s


def kill_and_freeze(world: World) -> None:
    """Kill one server for good and freeze another for a while, under load; verify all of it."""
    report, cluster = world.report, world.cluster
    with world.load():
        ticker, writer = Ticker(), Writer(world.writer_region())
        writer.goes_on(WRITES, GO_ON_S)
        cluster.cli("local", "stop", KILLED, "--signal", "KILL")
        known, early = world.bytes_known(), writer.writes
        report.line(f"{KILLED} got SIGKILL while three volumes are written")
        writer.goes_on(WRITES, GO_ON_S)
        killed, stalls = writer.stop(), ticker.stop()
        world.show_gap("server killed", killed, stalls)
        report.figure("longest stall of the host meanwhile", seconds(stalls.longest_s))
        right(world, writer, killed)
        ticker, writer = Ticker(), Writer(world.writer_region())
        writer.goes_on(SETTLE_WRITES, GO_ON_S)
        cluster.cli("local", "stop", FROZEN, "--signal", "STOP")
        frozen_at = time.monotonic()
        time.sleep(FREEZE_S)
        cluster.cli("local", "stop", FROZEN, "--signal", "CONT")
        report.line(
            f"{FROZEN} was frozen for {seconds(time.monotonic() - frozen_at)}; with {KILLED} dead "
            "one copy is too few, so writes wait for it"
        )
        writer.goes_on(WRITES, GO_ON_S)
        seen, stalls = writer.stop(), ticker.stop()
    # The measured writer goes round and round in its region, so that counts once.
    written = min(WRITER_SLOTS, killed.writes - early + seen.writes) * BLOCK_BYTES
    world.changed_bytes = world.bytes_known() - known + written
    world.show_gap("second server frozen, one dead", seen, stalls)
    right(world, writer, seen)
    world.verify_all()


def restart_and_resync(world: World) -> None:
    """Start the dead server again and watch it catch up."""
    report, cluster = world.report, world.cluster
    before = cluster.status()["resync"].get("bytes_done", 0)
    report.check("the cluster knows that a copy is missing", holds=not cluster.in_sync())
    cluster.cli("local", "start", KILLED)
    began = time.monotonic()
    cluster.wait_in_sync()
    report.figure("back in sync after", seconds(time.monotonic() - began))

    def moved() -> int:
        return int(cluster.status()["resync"].get("bytes_done", 0)) - int(before)

    _settled(moved)
    text = f"{mib(moved())} for {mib(world.changed_bytes)} changed meanwhile"
    report.figure("resync moved", text)
    report.line(f"all drives together hold {mib(cluster.used_bytes())}")
    world.verify_all()


def freeze_one_of_three(world: World) -> None:
    """Freeze one server of a healthy cluster for longer than a silence is tolerated."""
    report, cluster = world.report, world.cluster
    ticker, writer = Ticker(), Writer(world.writer_region())
    writer.goes_on(SETTLE_WRITES, GO_ON_S)
    cluster.cli("local", "stop", FROZEN, "--signal", "STOP")
    time.sleep(FULL_FREEZE_S)
    writer.goes_on(SETTLE_WRITES, GO_ON_S)
    cluster.cli("local", "stop", FROZEN, "--signal", "CONT")
    seen, stalls = writer.stop(), ticker.stop()
    world.show_gap("server frozen", seen, stalls)
    right(world, writer, seen)
    cluster.wait_in_sync()
    report.line(f"{FROZEN} was left out, came back and is in sync")


def _settled(count: Callable[[], int]) -> None:
    """Wait for a figure that servers tell every few seconds to come and to stay."""
    seen: list[tuple[float, int]] = [(time.monotonic(), 0)]

    def stays() -> bool:
        now, value = time.monotonic(), count()
        if value != seen[-1][1]:
            seen.append((now, value))
        return value > 0 and now - seen[-1][0] > REPORT_PERIOD_S

    wait_for(stays, "the returned server's report of what it copied", GO_ON_S)


def right(world: World, writer: Writer, seen: WriterReport) -> None:
    """Check that every write was acknowledged and is there."""
    text = f"{seen.writes} writes acknowledged"
    world.report.check("no write failed", holds=seen.errors == 0, detail=seen.first_error or text)
    world.check_content("the writer's blocks", lambda: verify(writer.region, seen) * BLOCK_BYTES)
