"""The network of a nemesis run does what it says, and leaves nothing: not when killed either."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.lib.procs import is_running
from tests.e2e.lib.shell import Started
from tests.e2e.nemesis.netns import argv_in
from tests.e2e.nemesis.settings import ROOT, Lab, namespace
from tests.storaged.nemesis_root import MARKS, everything, nothing_is_left

pytestmark = MARKS


def program(tmp_path: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=ROOT, env={**os.environ, "DRYSTONE_NEMESIS_DIR": str(tmp_path / "lab")},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def until_up(one: subprocess.Popen[str]) -> list[str]:
    assert one.stdout is not None
    said: list[str] = []
    while "up\n" not in said[-1:]:
        said.append(one.stdout.readline())
        assert said[-1], said
    return said


def test_each_fault_hits_what_it_names_is_counted_and_nothing_is_left(tmp_path):
    before = everything()
    with program(tmp_path, "tests.e2e.nemesis.net", "--self-test") as one:
        said, _ = one.communicate(timeout=240)
    assert one.returncode == 0, said
    assert "6 passed, 0 failed" in said, said
    assert everything() == before
    assert nothing_is_left(Lab(tmp_path / "lab"))


def test_what_a_killed_run_left_is_taken_away_by_its_files(tmp_path):
    before = everything()
    lab = Lab(tmp_path / "lab")
    with program(tmp_path, "tests.e2e.nemesis.net", "--hold") as one:
        said = until_up(one)
        one.kill()
        one.communicate(timeout=60)
    proxy = Started(lab.pids).pid("wan")
    assert proxy is not None, said
    assert namespace("n1") in everything()
    # One that the run had started and not yet noted.
    with subprocess.Popen(argv_in("n1", ["sleep", "600"])) as unknown:
        with program(tmp_path, "tests.e2e.nemesis", "down") as down:
            said_last, _ = down.communicate(timeout=120)
        assert unknown.wait(60) == -signal.SIGKILL
    assert down.returncode == 0, said_last
    assert not is_running(proxy)
    assert everything() == before
    assert nothing_is_left(Lab(tmp_path / "lab"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_end_takes_everything_away_itself(tmp_path, number):
    before = everything()
    with program(tmp_path, "tests.e2e.nemesis.net", "--hold") as one:
        until_up(one)
        one.send_signal(number)
        said, _ = one.communicate(timeout=120)
    assert one.returncode == 128 + number, said
    assert everything() == before
    assert nothing_is_left(Lab(tmp_path / "lab"))
