"""Measurements beside fio: control plane, idle cost, memory, write gaps. Ours only."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc

from drystone_storaged.proto import block_pb2, block_pb2_grpc
from tests.e2e.bench.ours import CONSUMER
from tests.e2e.lib import fio
from tests.e2e.lib.cluster import Cluster, temporary_cluster
from tests.e2e.lib.percentile import percentile
from tests.e2e.lib.procs import cpu_s, rss_bytes
from tests.e2e.lib.ticker import Stalls, Ticker
from tests.e2e.lib.writer import Region, Writer

CALL_WAIT_S: Final = 90.0
SMALL: Final = 64 << 20
TOGETHER: Final = 16  # as many as a busy provisioner has under way
FREEZE_S: Final = 6.0
GO_ON_S: Final = 60.0
WRITE_BYTES_PER_S_MIN: Final = 5e6  # random 4 KiB on a slow disk
MEMORY_SPARE: Final = 2 << 30  # room for checkpoints and the reserve of a drive
TIB: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """Times of the manager's work."""

    creates_per_s: float
    creates_together_per_s: float
    attach_p50_ms: float
    attach_p99_ms: float


def _timed(work: Callable[[], object]) -> float:
    began = time.monotonic()
    work()
    return time.monotonic() - began


class Volumes:
    """Many small volumes: made, attached as exports, and removed again."""

    def __init__(self, cluster: Cluster, count: int) -> None:
        self._cluster = cluster
        self._ids: list[str] = []
        self._count = count
        self._channel = grpc.insecure_channel(f"unix://{cluster.folder}/run/{CONSUMER}.sock")
        self._block = block_pb2_grpc.BlockStub(self._channel)

    def create_and_attach(self) -> ControlPlane:
        """Half of them made one after the other, half together; attached one after the other."""
        half = self._count // 2
        alone = half / _timed(lambda: deque(map(self._create, range(half)), maxlen=0))
        with ThreadPoolExecutor(TOGETHER) as pool:
            rest = range(half, self._count)
            together = len(rest) / _timed(lambda: list(pool.map(self._create, rest)))
        times = [_timed(partial(self._attach, volume)) * 1000 for volume in self._ids]
        return ControlPlane(alone, together, statistics.median(times), percentile(times, 99))

    def _create(self, number: int) -> None:
        body = {"name": f"idle-{number}", "size": SMALL, "pool": "default"}
        self._ids.append(self._cluster.rest.post("/v1/volumes", body)["id"])

    def _attach(self, volume: str) -> None:
        body = {"node": CONSUMER, "mode": "rw"}
        self._cluster.rest.post(f"/v1/volumes/{volume}/publish", body)
        request = block_pb2.AttachRequest(
            volume_id=volume,
            mode=block_pb2.MODE_READ_WRITE,
            attacher=block_pb2.ATTACHER_EXPORT,
        )
        self._block.Attach(request, timeout=CALL_WAIT_S)

    def remove(self) -> None:
        """Detach and delete all of them."""
        for volume in self._ids:
            request = block_pb2.DetachRequest(volume_id=volume)
            self._block.Detach(request, timeout=CALL_WAIT_S)
            self._cluster.rest.post(f"/v1/volumes/{volume}/unpublish", {"node": CONSUMER})
            self._cluster.rest.delete(f"/v1/volumes/{volume}")
        self._channel.close()


def idle_cpu(cluster: Cluster, seconds: float, settle_s: float) -> dict[str, float]:
    """Share of one core by process, over a period in which nobody does anything."""
    time.sleep(settle_s)
    pids = cluster.pids()
    before = {name: cpu_s([pid]) for name, pid in pids.items()}
    began = time.monotonic()
    time.sleep(seconds)
    length = time.monotonic() - began
    return {name: (cpu_s([pid]) - before[name]) / length for name, pid in pids.items()}


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident memory of servers for what is stored, scaled to a TiB."""

    random_gib_per_tib: float
    sequential_gib_per_tib: float
    stored_bytes: int


def memory(size: int) -> Memory:
    """Write a new volume once in sequence and another in random order, of three times the size.

    Before that, a third as much is written in both orders: buffers reach the size that they keep
    however much is stored (from about 0.8 GiB on), and would count as memory for data otherwise.
    Less would say little: allocators take memory in steps of up to 1 MiB.
    """
    drive = 8 * size + MEMORY_SPARE
    with temporary_cluster("bench-memory", "--servers", "3", "--drive-size", str(drive)) as cluster:
        _grown(cluster, "warm-seq", "write", "128k", size)
        _grown(cluster, "warm-rand", "randwrite", "4k", size)
        sequential = _grown(cluster, "mem-seq", "write", "128k", 3 * size)
        random = _grown(cluster, "mem-rand", "randwrite", "4k", 3 * size)
    return Memory(random, sequential, 3 * size)


def _grown(cluster: Cluster, name: str, rw: str, block: str, size: int) -> float:
    """GiB of memory for each TiB stored."""
    cluster.cli("volume", "create", name, "--size", str(size))
    uri = cluster.attach(name, CONSUMER, "export")["nbd_uri"]
    before = sum(rss_bytes(pid) for pid in cluster.server_pids())
    _fill(uri, rw, block, size)
    after = sum(rss_bytes(pid) for pid in cluster.server_pids())
    return (after - before) / (size * len(cluster.server_pids())) * TIB / (1 << 30)


def _fill(uri: str, rw: str, block: str, size: int) -> None:
    options: dict[str, object] = {
        "rw": rw, "bs": block, "iodepth": 32, "size": size, "refill_buffers": 1,
    }  # fmt: skip
    argv = fio.command({"ioengine": "nbd", "uri": uri}, options)
    fio.run(argv, expected_s=size / WRITE_BYTES_PER_S_MIN)


@dataclass(frozen=True, slots=True)
class Gap:
    """The longest write around one event, and what the host took away in it."""

    seconds: float
    host_s: float


def gaps(
    cluster: Cluster, uri: str, rounds: int, say: Callable[[str], None]
) -> dict[str, list[Gap]]:
    """Kill and freeze each server in turn under small durable writes."""
    found: dict[str, list[Gap]] = {"killed": [], "frozen": []}
    names = cluster.server_names()
    for number in range(rounds):
        name = names[number % len(names)]
        found["killed"].append(_gap(uri, partial(_kill, cluster, name)))
        cluster.cli("local", "start", name)
        cluster.wait_in_sync()
        found["frozen"].append(_gap(uri, partial(_freeze, cluster, name)))
        cluster.wait_in_sync()
        say(f"  gaps at {name}: {found['killed'][-1]}, {found['frozen'][-1]}")
    return found


def _gap(uri: str, event: Callable[[], Any]) -> Gap:
    ticker = Ticker()
    writer = Writer(Region(uri, 0, 1024, 3))
    writer.goes_on(100, GO_ON_S)
    event()
    writer.goes_on(100, GO_ON_S)
    seen, stalls = writer.stop(), ticker.stop()
    return _as_gap(seen.gap, stalls)


def _as_gap(gap: tuple[float, float], stalls: Stalls) -> Gap:
    return Gap(gap[1] - gap[0], stalls.within(*gap))


def _kill(cluster: Cluster, name: str) -> None:
    cluster.cli("local", "stop", name, "--signal", "KILL")


def _freeze(cluster: Cluster, name: str) -> None:
    cluster.cli("local", "stop", name, "--signal", "STOP")
    time.sleep(FREEZE_S)
    cluster.cli("local", "stop", name, "--signal", "CONT")


def disk_of(folder: Path) -> str:
    """What the files of the run lie on."""
    best = ("", "unknown")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        device, point, kind = line.split()[:3]
        if str(folder).startswith(point) and len(point) > len(best[0]):
            best = (point, f"{kind} on {device}")
    return best[1]
