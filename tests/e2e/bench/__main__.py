"""`make bench`: measures against the floors of this machine and against peers.

Writes docs/performance.md. Judges nothing: a slow figure is a figure.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from drystone_common.units import parse_size
from tests.e2e.bench import blocks, floors
from tests.e2e.bench.ceph import PeerMissingError, ceph_cluster
from tests.e2e.bench.gate import Gate
from tests.e2e.bench.jobs import JOBS, Job, placements
from tests.e2e.bench.ours import Ours, our_cluster
from tests.e2e.bench.page import Figures, render
from tests.e2e.bench.system import System, measure, prefill
from tests.e2e.lib.stop import end_in_order

ROOT: Final = Path(__file__).resolve().parents[3]
PAGE: Final = ROOT / "docs" / "performance.md"
PARTS: Final = ("floors", "fio", "gaps", "control", "memory")
SMOKE_S: Final = 3.0  # below this a run is a smoke test and nothing waits for quiet


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench.sh",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--peers", default="", help="further systems, comma separated: ceph")
    parser.add_argument("--rounds", type=int, default=5, help="of every job, in turn")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each job")
    parser.add_argument("--size", default="1Gi", help="of the image")
    parser.add_argument("--volumes", type=int, default=100, help="attached and idle")
    parser.add_argument("--idle-seconds", type=float, default=30.0, help="of looking at them")
    parser.add_argument("--gap-rounds", type=int, default=3, help="failures of each kind")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, comma separated")
    parser.add_argument("--jobs", default=",".join(job.name for job in JOBS), help="fio jobs")
    parser.add_argument("--output", type=Path, default=PAGE, help="page to write")
    return parser.parse_args()


def say(text: str) -> None:
    """Progress, with the time since nothing in particular."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def main() -> int:
    """Run the parts that were asked for and write the page."""
    end_in_order()
    args = _arguments()
    only = set(args.only.split(","))
    if only - set(PARTS):
        print(f"error: unknown parts {sorted(only - set(PARTS))}", file=sys.stderr)
        return 2
    size = parse_size(args.size)
    jobs = [job for job in JOBS if job.name in args.jobs.split(",")]
    figures = Figures()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="drystone-floor-")))
        figures.machine = [*floors.machine(), ("files on", blocks.disk_of(folder)), *_versions()]
        gate = Gate(folder)
        if "floors" in only:
            _floors(figures, folder, args.seconds)
        if "memory" in only:
            # First, on a cluster of its own: nothing else has grown a buffer or filled a cache.
            say("memory")
            figures.memory = blocks.memory(size)
        ours = stack.enter_context(our_cluster(size))
        say("drystone is up")
        if "fio" in only:
            ram = stack.enter_context(floors.ram_nbd(folder, size))
            systems: list[System] = [ours, *_peers(stack, figures, args.peers, size), ram]
            _fio(figures, systems, jobs, gate, args)
        _beside(figures, ours, only, args)
    figures.gate = f"it waited {gate.waited} times and gave up {gate.forced} times"
    arguments = f" PEERS={args.peers}" if args.peers else ""
    args.output.write_text(
        render(
            figures, jobs, placements(), rounds=args.rounds, seconds=args.seconds, size=size,
            arguments=arguments,
        )
    )  # fmt: skip
    say(f"written: {args.output}")
    return 0


def _versions() -> list[tuple[str, str]]:
    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False
        )
        return done.stdout.strip()

    commit = git("rev-parse", "--short=12", "HEAD") or "unknown"
    changed = " with local changes" if git("status", "--porcelain", "-uno") else ""
    fio = subprocess.run(["fio", "--version"], capture_output=True, text=True, check=False)
    return [
        ("commit", commit + changed),
        ("date", time.strftime("%Y-%m-%d")),
        ("load", fio.stdout.strip()),
    ]


def _floors(figures: Figures, folder: Path, seconds: float) -> None:
    say("floors")
    ping = floors.ping_pong_us(seconds)
    one, many = (floors.durable_write(folder, seconds, depth) for depth in (1, 32))
    figures.floors = [
        ("loopback TCP ping-pong of 64 B, blocking (in Python)", f"{ping:.0f} µs"),
        ("4 KiB write and fdatasync, one at a time", f"{one.iops:.0f} IOPS"),
        ("4 KiB writes, 32 at a time, an fdatasync for 32", f"{many.iops:.0f} IOPS"),
    ]


def _peers(stack: ExitStack, figures: Figures, wanted: str, size: int) -> list[System]:
    found: list[System] = []
    for name in [name for name in wanted.split(",") if name]:
        if name != "ceph":
            raise SystemExit(f"error: there is no peer {name}; known: ceph")
        try:
            peer = stack.enter_context(ceph_cluster(size))
        except PeerMissingError as error:
            raise SystemExit(f"error: the peer ceph does not run: {error}") from error
        figures.machine.append(("ceph", peer.version()))
        found.append(peer)
        say("ceph is up")
    return found


def _fio(
    figures: Figures,
    systems: list[System],
    jobs: list[Job],
    gate: Gate,
    args: argparse.Namespace,
) -> None:
    figures.systems = [system.name for system in systems]
    for system in systems:
        say(f"filling {system.name}")
        prefill(system)
    for number in range(args.rounds):
        # A B B A: what drifts over the run meets every system alike.
        order = systems if number % 2 == 0 else systems[::-1]
        for job in jobs:
            if args.seconds >= SMOKE_S:
                gate.pass_through(say)
            for place in placements():
                for system in order:
                    sample = measure(system, job, place, args.seconds)
                    figures.samples.add(system.name, place.name, job.name, sample)
                    say(
                        f"round {number + 1} {job.name} {place.name} {system.name}: "
                        f"{sample.result.iops:.0f} IOPS, {sample.result.latency_us:.0f} µs, "
                        f"servers {sample.server_cpu_us:.0f} µs an operation"
                    )


def _beside(figures: Figures, ours: Ours, only: set[str], args: argparse.Namespace) -> None:
    """Measurements that only we have."""
    if "control" in only:
        say(f"control plane and idle cost with {args.volumes} volumes")
        volumes = blocks.Volumes(ours.cluster, args.volumes)
        figures.control = volumes.create_and_attach()
        figures.idle = blocks.idle_cpu(ours.cluster, args.idle_seconds, settle_s=5.0)
        figures.idle_volumes = args.volumes
        volumes.remove()
    if "gaps" in only:
        say("write gaps")
        figures.gaps = blocks.gaps(ours.cluster, ours.uri, args.gap_rounds, say)


if __name__ == "__main__":
    sys.exit(main())
