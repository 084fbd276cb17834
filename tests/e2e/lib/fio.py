"""fio: arguments, running it, and what its JSON says."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

EXTRA_WAIT_S: Final = 120.0  # laying out, draining and slow hosts; beyond it fio hangs
ERROR_TEXT_MAX: Final = 3000


class FioFailedError(Exception):
    """fio ended with an error, or a verification failed."""


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of a job."""

    iops: float
    bytes_per_s: float
    bytes: int
    count: int
    latency_us: float
    p99_us: float


@dataclass(frozen=True, slots=True)
class Result:
    """One job."""

    read: Direction
    write: Direction

    @property
    def count(self) -> int:
        """Operations of both directions."""
        return self.read.count + self.write.count

    @property
    def iops(self) -> float:
        """Operations a second, both directions."""
        return self.read.iops + self.write.iops

    @property
    def bytes_per_s(self) -> float:
        """Throughput, both directions."""
        return self.read.bytes_per_s + self.write.bytes_per_s

    @property
    def latency_us(self) -> float:
        """Mean completion time over both directions."""
        if not self.count:
            return 0.0
        total = self.read.latency_us * self.read.count + self.write.latency_us * self.write.count
        return total / self.count


def command(target: Mapping[str, str], options: Mapping[str, object]) -> list[str]:
    """Arguments of one job; ``target`` has the engine's own options."""
    pairs = {"name": "job", **target, **options}
    return ["fio", "--output-format=json", *(f"--{key}={value}" for key, value in pairs.items())]


def run(
    argv: Sequence[str], expected_s: float, environment: Mapping[str, str] | None = None
) -> Result:
    """Run fio to its end."""
    done = subprocess.run(
        argv, capture_output=True, text=True, check=False, timeout=expected_s + EXTRA_WAIT_S,
        env=dict(environment) if environment is not None else None,
    )  # fmt: skip
    return parse(done.returncode, done.stdout, done.stderr)


def parse(code: int, output: str, errors: str) -> Result:
    """Read fio's JSON; notes may stand before and after it."""
    begin, end = output.find("{"), output.rfind("}")
    data = json.loads(output[begin : end + 1]) if 0 <= begin < end else {}
    jobs = data.get("jobs") or []
    if code or not jobs or jobs[0].get("error"):
        text = (errors + output[:begin] if jobs else errors + output)[-ERROR_TEXT_MAX:]
        raise FioFailedError(f"fio ended with {code}: {text.strip()}")
    return Result(_direction(jobs[0]["read"]), _direction(jobs[0]["write"]))


def _direction(data: Mapping[str, Any]) -> Direction:
    percentiles = data["clat_ns"].get("percentile", {})
    return Direction(
        iops=data["iops"],
        bytes_per_s=data["bw_bytes"],
        bytes=data["io_bytes"],
        count=data["total_ios"],
        latency_us=data["lat_ns"]["mean"] / 1000,
        p99_us=percentiles.get("99.000000", 0) / 1000,
    )
