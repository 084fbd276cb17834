"""The Makefile is the only entry point, and it explains itself."""

from __future__ import annotations

import os
import re
import subprocess

from tests.unit.source_tree import ROOT

TARGET = re.compile(r"^([a-z][a-z0-9-]*):(?!=)(.*)$", re.MULTILINE)


def targets() -> dict[str, str]:
    return dict(TARGET.findall((ROOT / "Makefile").read_text()))


def test_every_target_has_help_text():
    without = [name for name, rest in targets().items() if not re.search(r"## \S", rest)]
    assert without == []


def test_every_target_is_phony_and_every_phony_is_a_target():
    line = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line is not None
    assert set(line[1].split()) == set(targets())


def test_help_lists_every_target():
    shown = subprocess.run(
        ["make", "help"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    ).stdout
    assert {line.split()[1] for line in shown.splitlines()} == set(targets())


def test_every_script_that_a_target_runs_exists_and_is_executable():
    used = set(re.findall(r"scripts/[a-z_]+\.sh", (ROOT / "Makefile").read_text()))
    assert used
    assert [name for name in used if not (ROOT / name).stat().st_mode & 0o100] == []


def test_continuous_integration_calls_make_test():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o100
    assert script.read_text().rstrip().endswith("exec make test")


def test_every_shell_script_parses_and_stops_at_the_first_error():
    scripts = [path for path in sorted((ROOT / "scripts").glob("*.sh")) if path.name != "lib.sh"]
    assert scripts
    for path in scripts:
        subprocess.run(["bash", "-n", str(path)], check=True, timeout=10)
        assert "\nset -euo pipefail\n" in path.read_text(), path.name


def test_crash_replay_asks_for_as_many_points_as_it_is_told(tmp_path):
    cargo = tmp_path / "cargo"
    cargo.write_text('#!/bin/sh\necho "points=$STORE_REPLAY_POINTS" "$@"\n')
    cargo.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"

    def run(points: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [ROOT / "scripts" / "crash_replay.sh"],
            env={"PATH": path, "HOME": str(tmp_path), "POINTS": points},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

    assert run("4321").stdout.startswith("points=4321 test ")
    assert run("").stdout.startswith("points=10000 test ")
    refused = run("many")
    assert refused.returncode == 1
    assert "POINTS=many is not a number of crash points" in refused.stderr


def test_every_parameter_of_make_reaches_the_scripts():
    text = (ROOT / "Makefile").read_text()
    parameters = set(re.findall(r"^([A-Z]+) \?=$", text, re.MULTILINE))
    exported = re.search(r"^export (.+)$", text, re.MULTILINE)
    assert exported is not None
    assert parameters - {"KIND"} == set(exported[1].split())
