"""A run that passed leaves nothing; one that did not leaves all that tells why, out of the way."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.lib.shell import LabError, Steps
from tests.e2e.nemesis import program
from tests.e2e.nemesis.options import Options


class Run:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept = False

    def keep_folder(self) -> None:
        self.kept = True


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Runs in ``tmp_path / "lab"`` that end as they are told, without a cluster."""
    monkeypatch.setenv("DRYSTONE_NEMESIS_DIR", str(tmp_path / "lab"))
    ends: list[object] = []

    @contextmanager
    def running(lab, *, wait_s, keep):
        assert wait_s > 0
        if ends == ["busy"]:
            raise LabError("a nemesis run has this machine")
        lab.folder.mkdir(exist_ok=True)
        run = Run(lab.folder)
        try:
            yield run
        finally:
            if not run.kept and not keep:
                lab.folder.rmdir()

    def played(_run, report, _steps) -> None:
        (end,) = ends
        if isinstance(end, BaseException):
            raise end
        report.problems += [] if end == "good" else [end]

    monkeypatch.setattr(program, "running", running)
    monkeypatch.setattr(program, "_run", played)

    def play(end: object, keep: Path | None = None) -> list[str]:
        ends[:] = [end]
        try:
            program.play(Options(seed=3, keep=keep), Steps())
        finally:
            names = sorted(path.name for path in tmp_path.iterdir())
        return names

    return play


def test_a_run_that_passed_leaves_nothing(lab):
    assert lab("good") == []


def test_a_run_that_failed_goes_aside_with_how_to_repeat_it(lab, tmp_path):
    (name,) = lab("a byte is wrong")
    assert name.startswith("lab-failed-")
    assert "--seed 3" in (tmp_path / name / "repro.txt").read_text()


@pytest.mark.parametrize(
    "end", [LabError("it did not come up"), KeyboardInterrupt(), SystemExit(1)]
)
def test_what_broke_off_is_not_in_the_way_of_the_next_run(lab, tmp_path, end):
    with pytest.raises(type(end)):
        lab(end)
    assert all(path.name.startswith("lab-failed-") for path in tmp_path.iterdir())


def test_a_kept_run_that_was_told_to_end_stays_where_it_is(lab, tmp_path):
    kept = tmp_path / "kept"
    with pytest.raises(SystemExit):
        lab(SystemExit(1), keep=kept)
    assert lab("good", keep=kept) == ["kept"]


def test_the_folder_of_a_run_that_goes_on_elsewhere_is_left_alone(lab, tmp_path):
    (tmp_path / "lab").mkdir()
    with pytest.raises(LabError, match="has this machine"):
        lab("busy")
    assert [path.name for path in tmp_path.iterdir()] == ["lab"]
