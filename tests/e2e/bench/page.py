"""Writes `docs/performance.md`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.e2e.bench.blocks import ControlPlane, Gap, Memory
from tests.e2e.bench.jobs import Job, Placement
from tests.e2e.bench.ours import NAME
from tests.e2e.bench.stats import ratios, shown, spread
from tests.e2e.bench.system import Samples

HEAD: Final = """# Performance

Written by `make bench{arguments}`; do not edit. What counts are **ratios within one run** and
microseconds above the floor: absolute figures belong to the machine they were taken on. Every
write below is on all three copies and flushed before it is acknowledged, checksums are on, and
servers, consumer and load share the CPUs named here.

{machine}

## Method

Before every job a gate waits until a TCP ping-pong and a durable file write are near the best
seen in the run ({gate}). The systems take turns, A B B A; rounds: {rounds}, each with {seconds} s
for each job; the image of {size} is filled with random data first. *pinned*: load and consumer on
one CPU, servers on another; *free*: wherever the kernel puts them. Means are geometric; in
brackets stand the least and the greatest round. CPU is user and system time of the processes,
divided by operations.

`make bench` repeats this; `PEERS=ceph` adds Ceph from Debian's packages (one monitor, one manager,
three BlueStore daemons on sparse files, no authentication, no client cache). `scripts/bench.sh
--help` shortens it.
"""

ROUNDS_MIN: Final = 5
SECONDS_MIN: Final = 3.0
SHORT: Final = """
**This was a short run**, without enough rounds or without waiting for a quiet machine: the figures
show that everything is measured, and little more.
"""


@dataclass(slots=True)
class Figures:
    """Everything that a run found; what was left out stays empty."""

    machine: list[tuple[str, str]] = field(default_factory=list)
    floors: list[tuple[str, str]] = field(default_factory=list)
    samples: Samples = field(default_factory=Samples)
    systems: list[str] = field(default_factory=list)
    control: ControlPlane | None = None
    idle: dict[str, float] = field(default_factory=dict)
    idle_volumes: int = 0
    memory: Memory | None = None
    gaps: dict[str, list[Gap]] = field(default_factory=dict)
    gate: str = ""


def render(
    figures: Figures,
    jobs: Sequence[Job],
    places: Sequence[Placement],
    *,
    rounds: int,
    seconds: float,
    size: int,
    arguments: str,
) -> str:
    """The whole page."""
    head = HEAD.format(
        arguments=arguments, gate=figures.gate, rounds=rounds, seconds=f"{seconds:g}",
        size=f"{size / (1 << 30):g} GiB", machine=_table(("", ""), figures.machine),
    )  # fmt: skip
    if rounds < ROUNDS_MIN or seconds < SECONDS_MIN:
        head += SHORT
    parts = [head, "## Floors\n", _table(("limit", "figure"), figures.floors)]
    for place in places:
        rows = [row for job in jobs if (row := _job_row(figures, job, place.name))]
        if rows:
            headers = ("job", *figures.systems, *_ratio_names(figures))
            parts += [f"\n## {place.name.capitalize()}\n", _table(headers, rows)]
            parts += [f"\nCPU per operation, {place.name}:\n"]
            parts += [_table(("job", *_cpu_names(figures)), _cpu_rows(figures, jobs, place.name))]
    others = _other_rows(figures)
    if others:
        parts += ["\n## Beside the data path\n", _table(("what", "figure"), others)]
    return "\n".join(parts) + "\n"


def _table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(headers)} |", f"|{'---|' * len(headers)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def _peers(figures: Figures) -> list[str]:
    return [name for name in figures.systems if name != NAME]


def _ratio_names(figures: Figures) -> list[str]:
    return [f"{NAME} : {peer}" for peer in _peers(figures)]


def _job_row(figures: Figures, job: Job, place: str) -> list[str]:
    found = {name: figures.samples.get(name, place, job.name) for name in figures.systems}
    if not any(found.values()):
        return []
    row = [job.name, *(shown(job, found[name]) for name in figures.systems)]
    for peer in _peers(figures):
        ratio = ratios(job, found.get(NAME, []), found[peer])
        row.append(f"{ratio.text()} times" if ratio else "-")
    return row


def _cpu_names(figures: Figures) -> list[str]:
    names = [f"{name} servers" for name in figures.systems]
    return [*names, f"{NAME} consumer with its NBD front end"]


def _cpu_rows(figures: Figures, jobs: Sequence[Job], place: str) -> list[list[str]]:
    rows = []
    for job in jobs:
        row = [job.name]
        for name in figures.systems:
            found = spread([s.server_cpu_us for s in figures.samples.get(name, place, job.name)])
            row.append(f"{found.mean:.1f} µs" if found else "-")
        ours = spread([s.client_cpu_us for s in figures.samples.get(NAME, place, job.name)])
        rows.append([*row, f"{ours.mean:.1f} µs" if ours else "-"])
    return rows


def _other_rows(figures: Figures) -> list[tuple[str, str]]:
    rows = []
    for name, found in figures.gaps.items():
        worst = max(found, key=lambda gap: gap.seconds)
        text = ", ".join(f"{gap.seconds * 1000:.0f} ms" for gap in found)
        rows.append(
            (f"write gap, one server {name}", f"{text} (host stalls {worst.host_s * 1000:.0f} ms)")
        )
    if figures.control:
        control = figures.control
        text = f"{control.creates_per_s:.0f} / {control.creates_together_per_s:.0f} a second"
        rows.append(("volume creates, one after the other / 16 at a time", text))
        attach = f"{control.attach_p50_ms:.1f} / {control.attach_p99_ms:.1f} ms"
        rows.append(("publish and attach, p50 / p99", attach))
    if figures.idle:
        share = sum(figures.idle.values()) * 100
        text = f"whole cluster idle with {figures.idle_volumes} attached volumes"
        rows.append((text, f"{share:.2f} % of a core"))
        each = ", ".join(f"{name} {part * 100:.2f} %" for name, part in figures.idle.items())
        rows.append(("of it", each))
    if figures.memory:
        memory = figures.memory
        name = "server memory per stored TiB, all-random 4 KiB / sequential"
        text = f"{memory.random_gib_per_tib:.2f} / {memory.sequential_gib_per_tib:.2f} GiB"
        stored = f"{memory.stored_bytes / (1 << 30):g} GiB"
        rows.append((name, f"{text}, scaled from {stored} on each server"))
    return rows
