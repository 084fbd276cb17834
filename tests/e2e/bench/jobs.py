"""The jobs of the benchmark and the two placements of processes on CPUs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Job:
    """One fio job. ``sequential`` ones are judged by throughput, the others by operations."""

    name: str
    rw: str
    block_bytes: int
    depth: int

    @property
    def sequential(self) -> bool:
        """Judged in MiB/s."""
        return self.name.startswith("seq-")

    @property
    def latency(self) -> bool:
        """Judged by the mean time of one operation."""
        return self.name.startswith("lat-")

    def options(self, seconds: float) -> dict[str, object]:
        """Options of fio."""
        options: dict[str, object] = {
            "rw": self.rw, "bs": self.block_bytes, "iodepth": self.depth, "time_based": 1,
            "runtime": f"{seconds:g}", "ramp_time": f"{min(1.0, seconds / 4):g}", "size": "100%",
            "randrepeat": 0, "norandommap": 1, "refill_buffers": 1,
        }  # fmt: skip
        if self.rw == "randrw":
            options["rwmixread"] = 70
        return options


JOBS: Final = (
    Job("lat-r-4k-1", "randread", 4096, 1),
    Job("lat-w-4k-1", "randwrite", 4096, 1),
    Job("rand-r-4k-32", "randread", 4096, 32),
    Job("rand-w-4k-32", "randwrite", 4096, 32),
    Job("rand-rw70-4k-32", "randrw", 4096, 32),
    Job("seq-r-128k-16", "read", 128 << 10, 16),
    Job("seq-w-128k-16", "write", 128 << 10, 16),
)


@dataclass(frozen=True, slots=True)
class Placement:
    """CPUs of the client side (fio and the consumer) and of the servers."""

    name: str
    client: frozenset[int]
    servers: frozenset[int]


def placements() -> tuple[Placement, ...]:
    """Pinned and free; unpinned latencies differ by more than a factor of two."""
    cpus = sorted(os.sched_getaffinity(0))
    free = Placement("free", frozenset(cpus), frozenset(cpus))
    if len(cpus) < 2:
        return (free,)
    pinned = Placement("pinned", frozenset(cpus[:1]), frozenset(cpus[1:2]))
    return (pinned, free)
