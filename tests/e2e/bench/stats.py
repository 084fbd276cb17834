"""Figures out of rounds: means that travel, ratios with their spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.e2e.bench.jobs import Job
from tests.e2e.bench.system import Sample


@dataclass(frozen=True, slots=True)
class Spread:
    """Geometric mean with the least and the greatest of the rounds."""

    mean: float
    least: float
    greatest: float

    def text(self, digits: int = 2) -> str:
        """For the table."""
        return f"{self.mean:.{digits}f} ({self.least:.{digits}f}-{self.greatest:.{digits}f})"


def spread(values: Sequence[float]) -> Spread | None:
    """None where there is nothing, or a zero among them."""
    if not values or min(values) <= 0:
        return None
    mean = math.exp(sum(math.log(value) for value in values) / len(values))
    return Spread(mean, min(values), max(values))


def better(job: Job, sample: Sample) -> float:
    """The job's figure of merit: the larger, the better."""
    if job.sequential:
        return sample.result.bytes_per_s
    return sample.result.iops


def shown(job: Job, samples: Sequence[Sample]) -> str:
    """The job's figure in its unit."""
    found = spread([better(job, sample) for sample in samples])
    if found is None:
        return "-"
    if job.sequential:
        return f"{found.mean / (1 << 20):.0f} MiB/s"
    latency = spread([sample.result.latency_us for sample in samples])
    text = f"{found.mean:.0f} IOPS"
    return f"{text}, {latency.mean:.0f} µs" if job.latency and latency else text


def ratios(job: Job, ours: Sequence[Sample], theirs: Sequence[Sample]) -> Spread | None:
    """How many times better, round by round."""
    pairs = zip(ours, theirs, strict=False)
    return spread([better(job, a) / better(job, b) for a, b in pairs if better(job, b) > 0])
