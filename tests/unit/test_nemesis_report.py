"""A run passes only when it did what it was made for; its last line is the one that counts."""

from __future__ import annotations

import json

from scripts.run_tests import Counts, count_plain

from tests.e2e.nemesis.judge import Outcome, Wait
from tests.e2e.nemesis.options import Options
from tests.e2e.nemesis.report import OUTPUT, Report
from tests.e2e.nemesis.world import Totals

LAPS = ("quiet", "kill")
CHOSEN = Options(seed=7, laps=LAPS)


def report(*outcomes: Outcome, laps: tuple[str, ...] = LAPS) -> Report:
    return Report(
        Options(seed=7, laps=laps), list(outcomes), Totals(operations=5, blocks_compared=5)
    )


def good(name: str) -> Outcome:
    return Outcome(name, 1, wait=Wait(0.1))


def test_a_run_whose_laps_passed_has_no_failure(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv(OUTPUT, str(tmp_path / "figures.json"))
    found = report(good("quiet"), good("kill"))
    found.finish([])
    found.show()
    shown = capsys.readouterr().out
    assert count_plain(shown) == Counts(2, 0)
    assert shown.splitlines()[-1] == "2 passed, 0 failed"
    written = json.loads((tmp_path / "figures.json").read_text())
    assert [row["name"] for row in written["rows"]] == ["quiet", "kill"]
    assert written["seed"] == 7


def test_a_lap_with_a_problem_fails_its_kind_and_says_why(capsys):
    found = report(good("quiet"), good("kill"), Outcome("kill", 3, ["a block forgot"]))
    found.finish([])
    found.show()
    shown = capsys.readouterr().out
    assert "FAILED: kill: a block forgot" in shown
    assert count_plain(shown) == Counts(1, 1)
    assert "--seed 7 --servers 3 --laps quiet,kill,kill" in found.repro()


def test_what_was_not_played_fails_the_run():
    found = report(good("quiet"))
    found.finish([])
    assert found.failures == 1
    assert "kill" in found.failed[0]


def test_a_fault_that_met_no_packet_and_a_run_without_operations_fail():
    found = report(good("quiet"), good("kill"))
    found.totals.operations = found.totals.blocks_compared = 0
    found.finish(["cut"])
    assert found.failures == 3


def test_a_stolen_volume_whose_old_owner_tried_nothing_fails():
    found = report(good("steal"), laps=("steal",))
    found.finish([])
    assert found.failed == ["no stale writer tried anything"]
