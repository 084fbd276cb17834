"""A measurement that is told to end removes what it made."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import subprocess, sys, tempfile, time
from pathlib import Path
from tests.e2e.lib.stop import end_in_order
end_in_order()
with tempfile.TemporaryDirectory(dir=sys.argv[1]) as folder:
    child = subprocess.Popen(["sleep", "600"])
    try:
        print(child.pid, flush=True)
        time.sleep(600)
    finally:
        child.kill()
        child.wait()
        print("removed", flush=True)
        sys.stdin.readline()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_program_that_is_told_to_end_unwinds_and_a_second_signal_does_not_cut_it_short(
    tmp_path, number
):
    argv = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as program:
        assert program.stdout is not None
        child = int(program.stdout.readline())
        program.send_signal(number)
        assert program.stdout.readline() == "removed\n"
        program.send_signal(number)
        program.communicate("\n", timeout=60)
    assert program.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
