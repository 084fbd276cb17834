"""`make demo`: a three-server cluster on this machine, broken on purpose, every byte checked.

Prints what it does and measures. Fails only when content is wrong or a promised state does not
come; times are shown and judged by nobody.
"""

from __future__ import annotations

import argparse
import sys
import time

from drystone_common.errors import DrystoneError
from tests.e2e.demo import consumers, repair, servers, space, volumes
from tests.e2e.demo.report import FailedCheckError, Report, seconds
from tests.e2e.demo.world import NODE, World
from tests.e2e.lib.cluster import Cluster, CommandFailedError, temporary_cluster
from tests.e2e.lib.csi import Csi
from tests.e2e.lib.stop import end_in_order
from tests.e2e.lib.waits import NotSeenError, wait_for

UP = ("--servers", "3", "--drives", "1", "--drive-size", "4G", "--consumers", "2")
FIRST_REPORT_S = 30.0


def main() -> int:
    """Run all steps; the exit code says whether everything held."""
    end_in_order()
    parser = argparse.ArgumentParser(prog="scripts/demo.sh", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the cluster running at the end")
    args = parser.parse_args()
    report = Report()
    try:
        began = time.monotonic()
        with temporary_cluster("demo", *UP, keep=args.keep) as cluster:
            _run(report, cluster, time.monotonic() - began)
    except (FailedCheckError, NotSeenError, CommandFailedError, DrystoneError) as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    report.table()
    print("everything written was read back right, and every promised state came")
    return 0


def _run(report: Report, cluster: Cluster, up_s: float) -> None:
    csi = Csi(cluster.folder / "csi" / "csi.sock")
    world = World(report, cluster, csi, mounted=volumes.can_mount())
    with report.step("three servers, a manager and two consumers"):
        report.figure("local up", seconds(up_s))
        report.line(f"CSI plugin {csi.driver()} serves node {csi.node_id()}")
        report.check("every placement group is in sync", holds=cluster.in_sync())
        wait_for(
            lambda: all(d["used"] is not None for d in cluster.status()["drives"]),
            "every drive's first report", FIRST_REPORT_S,
        )  # fmt: skip
        world.used_at_start = cluster.used_bytes()
        if not world.mounted:
            report.line("without root or devices: volumes are used as NBD exports, not mounted")
    with report.step("three volumes through CSI: ext4, xfs, raw block"):
        volumes.create(world)
        volumes.bring_up(world)
    with report.step("writing while one server is killed and another frozen"):
        servers.kill_and_freeze(world)
    with report.step("the dead server comes back"):
        servers.restart_and_resync(world)
    with report.step("a server of a healthy cluster freezes for 6 s"):
        servers.freeze_one_of_three(world)
    with report.step(f"{NODE}'s block daemon is killed with the volumes in use"):
        consumers.restart_block(world)
    with report.step("a frozen consumer loses its volume to the other one"):
        consumers.fence(world)
    with report.step("bits flip in one drive file"):
        repair.flip_and_heal(world)
    with report.step("volumes grow"):
        space.expand(world)
    with report.step("volumes are deleted"):
        space.delete(world)
    csi.close()


if __name__ == "__main__":
    sys.exit(main())
