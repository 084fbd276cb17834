"""A system under test: something that fio can reach, with processes on either side."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

from tests.e2e.bench.jobs import Job, Placement
from tests.e2e.lib import fio
from tests.e2e.lib.procs import cpu_s, pin

PREFILL_BYTES_PER_S_MIN: Final = 20e6  # a disk slower than this makes no benchmark


class System(Protocol):
    """What is measured."""

    name: str
    size: int

    def target(self) -> dict[str, str]:
        """Options of fio's engine."""

    def server_pids(self) -> list[int]:
        """Processes that hold the copies."""

    def client_pids(self) -> list[int]:
        """Processes between fio and the servers; empty where the client is a library in fio."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One job on one system in one round."""

    result: fio.Result
    server_cpu_us: float
    client_cpu_us: float


@dataclass(slots=True)
class Samples:
    """Everything measured: (system, placement, job) to one sample a round."""

    found: dict[tuple[str, str, str], list[Sample]] = field(default_factory=dict)

    def add(self, system: str, placement: str, job: str, sample: Sample) -> None:
        """Append the next round."""
        self.found.setdefault((system, placement, job), []).append(sample)

    def get(self, system: str, placement: str, job: str) -> list[Sample]:
        """Samples by round; empty where nothing was measured."""
        return self.found.get((system, placement, job), [])


def prefill(system: System) -> None:
    """Fill the whole image with random data, so that every read meets stored blocks."""
    options: dict[str, object] = {
        "rw": "write", "bs": "128k", "iodepth": 16, "size": "100%", "refill_buffers": 1,
    }  # fmt: skip
    fio.run(fio.command(system.target(), options), expected_s=system.size / PREFILL_BYTES_PER_S_MIN)


def measure(system: System, job: Job, placement: Placement, seconds: float) -> Sample:
    """Run one job. CPU is read around the whole run; operations include the ramp in both."""
    pin(system.server_pids(), set(placement.servers))
    pin(system.client_pids(), set(placement.client))
    cpus = ",".join(str(cpu) for cpu in sorted(placement.client))
    argv = ["taskset", "-c", cpus, *fio.command(system.target(), job.options(seconds))]
    servers, clients = cpu_s(system.server_pids()), cpu_s(system.client_pids())
    result = fio.run(argv, expected_s=seconds)
    servers, clients = cpu_s(system.server_pids()) - servers, cpu_s(system.client_pids()) - clients
    # fio counts operations after its ramp only; the rate carries them over to the ramp.
    ramp = 1 + min(1.0, seconds / 4) / seconds
    operations = max(1.0, result.count * ramp)
    return Sample(result, servers / operations * 1e6, clients / operations * 1e6)
