"""Figures stand in the contract as a run wrote them, missed ones too."""

from __future__ import annotations

import json

import pytest

from tests.e2e.lib.shell import LabError
from tests.e2e.nemesis.judge import Outcome, Wait
from tests.e2e.nemesis.options import Options
from tests.e2e.nemesis.publish import BEGIN, END, PAGE, publish
from tests.e2e.nemesis.report import Report
from tests.e2e.nemesis.world import Totals


@pytest.fixture
def figures(tmp_path):
    late = Outcome("kill", 2)
    late.judge_waits([Wait(1.7, volume="v1")], 0.05)
    late.judge_figure("bytes moved", 1.2, 1.1)
    late.judge_figure("out after", 4.0, 15.0, "s")
    report = Report(Options(seed=7), [Outcome("quiet", 1), late], Totals(operations=5))
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(report.as_json()))
    return path


def test_only_what_is_between_the_markers_changes_and_publishing_again_changes_nothing(
    tmp_path, figures
):
    page = tmp_path / "page.md"
    page.write_text(f"before\n\n{BEGIN}\nold\n{END}\nafter\n")
    publish([figures], page)
    first = page.read_text()
    assert first.startswith("before\n")
    assert first.endswith(f"{END}\nafter\n")
    assert "old" not in first
    assert "| kill | 1 | 1.70 s | 1.70 s | ≤ 1 s **missed** |" in first
    assert "| kill: bytes moved | 1 | 1.20 | 1.20 | ≤ 1.1 **missed** |" in first
    assert "| kill: out after | 1 | 4.00 s | 4.00 s | ≤ 15 s |" in first
    assert "Known misses of this run:\n\n- kill: a client of v1 waited" in first
    assert "- kill: bytes moved: 1.2, allowed are 1.1\n" in first
    assert "seed 7" in first
    publish([figures], page)
    assert page.read_text() == first


def test_a_run_without_a_miss_says_so(tmp_path):
    path, page = tmp_path / "figures.json", tmp_path / "page.md"
    path.write_text(json.dumps(Report(Options(), [Outcome("quiet", 1)], Totals()).as_json()))
    page.write_text(f"{BEGIN}\n{END}\n")
    publish([path], page)
    assert "Known misses of this run: none." in page.read_text()


def test_a_page_without_a_place_and_a_file_without_figures_are_refused(tmp_path, figures):
    page = tmp_path / "page.md"
    page.write_text("no markers\n")
    with pytest.raises(LabError, match="no place"):
        publish([figures], page)
    page.write_text(f"{BEGIN}\n{END}\n")
    with pytest.raises(LabError, match="no figures"):
        publish([page], page)


def test_the_contract_has_the_place():
    assert BEGIN in PAGE.read_text()
    assert END in PAGE.read_text()
