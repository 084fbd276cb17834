"""What a run says at its end: a table for people, JSON for programs, and how to repeat it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tests.e2e.lib.shell import LabError, run
from tests.e2e.nemesis.counts import sentence
from tests.e2e.nemesis.judge import Outcome, Row, measured, rows
from tests.e2e.nemesis.options import Options, needed
from tests.e2e.nemesis.settings import ROOT
from tests.e2e.nemesis.world import Totals

OUTPUT: Final = "DRYSTONE_NEMESIS_FIGURES"


@dataclass(slots=True)
class Report:
    """Everything that a run found. ``problems``: those of the run as a whole."""

    options: Options
    outcomes: list[Outcome] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    packets: Mapping[str, int] = field(default_factory=dict)
    quiet_s: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """By kind of lap."""
        return rows(self.outcomes, self.quiet_s)

    @property
    def failed(self) -> list[str]:
        """All that went wrong, a sentence each."""
        return [f"{r.name}: {p}" for r in self.rows for p in r.problems] + self.problems

    @property
    def failures(self) -> int:
        """Kinds of laps that failed, and what is wrong with the run as a whole."""
        return sum(bool(row.problems) for row in self.rows) + len(self.problems)

    @property
    def passes(self) -> int:
        """Laps that passed, of kinds without a failure."""
        bad = {row.name for row in self.rows if row.problems}
        return sum(each.passed for each in self.outcomes if each.name not in bad)

    @property
    def longest_stall_s(self) -> float:
        """Of the host."""
        return max((each.longest_stall_s for each in self.outcomes), default=0.0)

    @property
    def longest_disk_s(self) -> float:
        """Of the host's disk."""
        return max((each.longest_disk_s for each in self.outcomes), default=0.0)

    def finish(self, idle_kinds: Sequence[str]) -> None:
        """Judge the run as a whole."""
        judged = {each.name for each in self.outcomes if not each.blurred}
        tried = {each.name for each in self.outcomes}
        missing = [name for name in needed(self.options) if name not in judged | tried]
        if missing:
            self.problems.append(f"there was no time for: {', '.join(missing)}")
        if idle_kinds:
            self.problems.append(f"no packet met what was enabled: {', '.join(idle_kinds)}")
        if "steal" in tried and not self.totals.attempts:
            self.problems.append("no stale writer tried anything")
        if not self.totals.blocks_compared:
            self.problems.append("no copies were compared")
        if not self.totals.operations:
            self.problems.append("no operation was checked")

    def show(self) -> None:
        """Print it; the last line is `N passed, M failed`."""
        for line in [*self._table(), *self._sentences()]:
            print(line)
        for problem in self.failed:
            print(f"FAILED: {problem}")
        path = os.environ.get(OUTPUT)
        if path:
            Path(path).write_text(json.dumps(self.as_json(), indent=1) + "\n")
        print(f"{self.passes} passed, {self.failures} failed")

    def as_json(self) -> dict[str, Any]:
        """For `publish`, and whoever compares runs."""
        return {
            "commit": commit(),
            "date": datetime.now(UTC).date().isoformat(),
            "seed": self.options.seed,
            "servers": self.options.servers,
            "rows": [asdict(row) for row in self.rows],
            "figures": [asdict(each) for each in measured(self.outcomes)],
            "laps": [
                {"name": o.name, "gap_s": o.wait.gap_s, "net_s": o.wait.net_s, **o.notes}
                for o in self.outcomes
            ],
            "sentences": self._sentences(),
            "failed": self.failed,
        }

    def repro(self) -> str:
        """The command that plays the same again."""
        played = ",".join(each.name for each in self.outcomes)
        return (
            f"commit {commit()}\npython -m tests.e2e.nemesis --seed {self.options.seed} "
            f"--servers {self.options.servers} --laps {played}\n" + "\n".join(self.failed) + "\n"
        )

    def _table(self) -> list[str]:
        lines = [f"{'lap':16} {'laps':>4} {'median':>8} {'worst':>8}  bar"]
        lines += [
            f"{r.name:16} {r.laps:4} {r.median_s:6.2f} s {r.worst_s:6.2f} s  {r.bar}"
            for r in self.rows
        ]
        lines += [
            f"{f.lap}: {f.name}: median {f.median:.3g}, worst {f.worst:.3g} {f.unit}, "
            f"allowed are {f.most:g}"
            for f in measured(self.outcomes)
        ]
        return lines

    def _sentences(self) -> list[str]:
        t, e = self.totals, self.totals.events
        in_time = t.attempts - t.refused - t.lost_attempts
        checked = f"checked: {t.operations} operations, {t.unknown} of unknown outcome"
        compared = (
            f"{t.blocks_compared} blocks of all copies compared, {t.blocks_told} with journals"
        )
        members = f"members: {e['drops']} drops, {e['joins']} joins"
        clients = f"clients: {e['relays']} relays, {e['resends']} resends"
        late = f"stale writers: {t.attempts} attempts after the fence, {t.refused} refused"
        others = f"{t.lost_attempts} lost with their connection, {in_time} that began before it"
        blurred = sum(each.blurred for each in self.outcomes)
        stall = (
            f"longest host stall {self.longest_stall_s:.2f} s, of its disk "
            f"{self.longest_disk_s:.2f} s, laps not judged because of them: {blurred}"
        )
        return [
            sentence(self.packets) if self.packets else "packets: none counted",
            f"{checked}; {compared}",
            f"{members}; {clients}",
            f"{late}, {others}",
            f"{stall}; longest wait without any fault {self.quiet_s:.2f} s",
            *(_resync(o.notes) for o in self.outcomes if "moved_ratio" in o.notes),
        ]


def _resync(notes: Mapping[str, float]) -> str:
    return (
        f"resync: {notes['moved_ratio']:.3f} times the bytes changed, "
        f"{notes['resync_mib_s']:.0f} MiB/s with nothing else to do; p99 of changes "
        f"{notes.get('p99_resync_s', 0) * 1000:.1f} ms while it lasts, "
        f"{notes.get('p99_first_second_s', 0) * 1000:.1f} ms in its first second, "
        f"{notes.get('p99_quiet_s', 0) * 1000:.1f} ms before and after"
    )


def commit() -> str:
    """The checkout's, with a mark when something was changed since."""
    try:
        name = run(["git", "rev-parse", "--short=10", "HEAD"], cwd=ROOT).strip()
        changed = run(["git", "status", "--porcelain", "--untracked-files=no"], cwd=ROOT).strip()
    except LabError:
        return "unknown"
    return f"{name}-changed" if changed else name
