"""Runs every tier that gates a change and sums what the runners themselves report.

A step without a count of its own (lint) adds nothing to the passed tests; a step that fails
adds at least one failure.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NATIVE = ROOT / "storaged" / "native"
SCRIPTS = ROOT / "scripts"


@dataclass(frozen=True, slots=True)
class Counts:
    """What one runner reported."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Sum two reports."""
        return Counts(
            self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped
        )


@dataclass(frozen=True, slots=True)
class Step:
    """One command, and how its result is read."""

    name: str
    argv: tuple[str, ...]
    count: Callable[[str], Counts]


def count_none(_output: str) -> Counts:
    """A step whose only result is its exit code."""
    return Counts()


def count_cargo(output: str) -> Counts:
    """Sum the result lines of all test binaries of `cargo test`."""
    lines = re.findall(
        r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", output, re.MULTILINE
    )
    return sum((Counts(int(p), int(f), int(i)) for p, f, i in lines), Counts())


def count_pytest(output: str) -> Counts:
    """Read pytest's last summary line."""
    summary = ""
    for line in output.splitlines():
        if re.search(r"\d+ (passed|failed|error|skipped).* in [\d.:]+", line):
            summary = line
    found = {
        word: int(n) for n, word in re.findall(r"(\d+) (passed|failed|errors?|skipped)", summary)
    }
    failed = found.get("failed", 0) + found.get("error", 0) + found.get("errors", 0)
    return Counts(found.get("passed", 0), failed, found.get("skipped", 0))


def count_plain(output: str) -> Counts:
    """Read the last `N passed, N failed` line: the simulator's form."""
    lines = re.findall(r"(\d+) passed, (\d+) failed", output)
    return Counts(int(lines[-1][0]), int(lines[-1][1])) if lines else Counts()


def count_ginkgo(output: str) -> Counts:
    """Read csi-sanity's summary."""
    lines = re.findall(r"(\d+) Passed \| (\d+) Failed \| \d+ Pending \| (\d+) Skipped", output)
    return sum((Counts(int(p), int(f), int(s)) for p, f, s in lines), Counts())


def steps() -> Iterable[Step]:
    """List the tiers, cheapest first."""
    yield Step("lint", (str(SCRIPTS / "lint.sh"),), count_none)
    yield Step(
        "rust",
        (
            "cargo",
            "test",
            "--locked",
            "--workspace",
            "--no-fail-fast",
            "--manifest-path",
            str(NATIVE / "Cargo.toml"),
        ),
        count_cargo,
    )
    # Switches of rules exist only with this feature; the profile keeps assertions, as it demands.
    yield Step(
        "rust mutations",
        (
            "cargo",
            "test",
            "--locked",
            "--profile",
            "sim",
            "--features",
            "mutations",
            "--no-fail-fast",
            "--manifest-path",
            str(NATIVE / "Cargo.toml"),
            *(f"--package=drystone-{name}" for name in ("replica", "sequencer", "sim")),
        ),
        count_cargo,
    )
    yield Step("simulator", (str(SCRIPTS / "sim.sh"),), count_plain)
    allowed = f"--allowlist={SCRIPTS / 'stubtest_allowlist.txt'}"
    yield Step(
        "native stub",
        (str(SCRIPTS / "py.sh"), "stubtest", allowed, "drystone_native"),
        count_none,
    )
    yield Step("etcd", (str(SCRIPTS / "etcd.sh"),), count_none)
    # Tests of CRDs and chart ask the real API server and the real helm that this builds.
    yield Step("kube programs", (str(SCRIPTS / "kube_short.sh"), "tools"), count_none)
    for folder in tiers():
        yield Step(
            f"python {folder.name}",
            (
                str(SCRIPTS / "py.sh"),
                "pytest",
                "-q",
                *_workers(folder.name),
                f"tests/{folder.name}",
            ),
            count_pytest,
        )
    yield Step("csi-sanity", (str(SCRIPTS / "csi_sanity.sh"),), count_ginkgo)
    yield Step("nemesis", (str(SCRIPTS / "nemesis.sh"), "--or-skip", "--short"), count_plain)
    yield Step("kubernetes", (str(SCRIPTS / "kube_short.sh"),), count_plain)


def tiers() -> list[Path]:
    """Every folder of tests, the pure ones first; `e2e` has runners of its own."""
    found = {path for path in (ROOT / "tests").iterdir() if any(path.rglob("test_*.py"))}
    return sorted(found - {ROOT / "tests" / "e2e"}, key=lambda path: (path.name != "unit", path))


def _workers(tier: str) -> tuple[str, ...]:
    # Pure tests gain from a second process; tests of real daemons would fight for the CPUs.
    return ("-n", "2") if tier == "unit" else ()


def run(step: Step) -> Counts:
    """Run one step, showing its output as it comes."""
    print(f"== {step.name}: {' '.join(step.argv)}", flush=True)
    began = time.monotonic()
    output = []
    with subprocess.Popen(
        step.argv,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        for line in process.stdout or ():
            sys.stdout.write(line)
            sys.stdout.flush()
            output.append(line)
    counts = step.count("".join(output))
    if process.returncode != 0 and counts.failed == 0:
        counts += Counts(failed=1)
    print(f"== {step.name}: exit {process.returncode} after {time.monotonic() - began:.0f} s")
    return counts


def main() -> int:
    """Run all steps and print the table and the sum; exit 1 when anything failed."""
    results = [(step.name, run(step)) for step in steps()]
    total = Counts()
    print("\n" + f"{'step':16} {'passed':>7} {'failed':>7} {'skipped':>8}")
    for name, counts in results:
        total += counts
        print(f"{name:16} {counts.passed:7} {counts.failed:7} {counts.skipped:8}")
    print(f"{total.passed} passed, {total.failed} failed")
    return 1 if total.failed or not total.passed else 0


if __name__ == "__main__":
    sys.exit(main())
