"""What the kernel says of a process is read as it is meant."""

from __future__ import annotations

import os
import subprocess
import sys

from drystone_common.processes import is_alive, process_state


def test_this_process_is_alive():
    assert is_alive(os.getpid())
    assert process_state(os.getpid()) == "R"


def test_one_that_ended_is_not_alive_neither_as_a_zombie_nor_later():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert process_state(child.pid) == "Z"
        assert not is_alive(child.pid)
    assert not is_alive(child.pid)
    assert process_state(child.pid) == ""
