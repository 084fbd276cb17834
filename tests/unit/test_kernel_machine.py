"""What the machine for another kernel decides without booting one."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest

from tests.e2e.kernel import guest, machine, restarts
from tests.e2e.kernel.__main__ import GUEST, arguments
from tests.unit.source_tree import ROOT


@pytest.fixture
def plan(tmp_path: Path) -> machine.Plan:
    return machine.Plan(tmp_path, ROOT, ("say", "it's all"), 100.0, 512, 1)


def test_the_guest_cannot_write_to_the_hosts_files(plan):
    words = machine.arguments(plan)
    assert "ro" in words
    assert "rw" not in words
    assert [word for word in words if any(character.isspace() for character in word)] == []


def test_the_guest_ends_before_the_host_gives_up(plan):
    limit = next(line for line in machine.init_script(plan).splitlines() if "LIMIT=" in line)
    assert 0 < float(limit.partition("=")[2]) < plan.limit_s


def test_scripts_of_the_guest_parse_and_keep_every_word(plan):
    environment = {"PATH": "/bin:/a b", "SECRET": "x", "PYTHONPATH": "/it's"}
    machine.prepare(plan, environment)
    for name in ("init", "command"):
        subprocess.run(["sh", "-n", str(plan.state / name)], check=True, timeout=10)
    written = (plan.state / "command").read_text()
    assert shlex.split(written.splitlines()[-1]) == ["exec", *plan.command]
    assert "SECRET" not in written
    assert plan.disk.stat().st_size == 1 << 30


def test_shell_scripts_of_the_guest_parse_and_are_executable():
    for name in ("first.sh", "inside.sh"):
        script = machine.HERE / name
        assert script.stat().st_mode & 0o100
        subprocess.run(["sh", "-n", str(script)], check=True, timeout=10)


def test_a_state_folder_with_a_space_is_refused_because_kernels_split_there(tmp_path):
    folder = tmp_path / "a b"
    folder.mkdir()
    with pytest.raises(machine.MachineError, match="TMPDIR"):
        machine.prepare(machine.Plan(folder, ROOT, ("true",), 1, 1, 1), {})


@pytest.fixture
def pretended(plan, monkeypatch):
    """Boots a shell script in place of a kernel; gives what was shown."""

    def boot(script: str) -> tuple[int, bytes]:
        machine.prepare(plan, {})
        shown: list[bytes] = []
        argv = ["sh", "-c", f"cd {shlex.quote(str(plan.state))}; {script}"]
        monkeypatch.setattr(machine, "arguments", lambda _: argv)
        return machine.run(plan, shown.append), b"".join(shown)

    return boot


def test_output_and_exit_status_of_the_command_are_passed_on(pretended):
    assert pretended("echo hello >out; echo 7 >new; mv new status; sleep 60") == (7, b"hello\n")


def test_a_machine_that_ends_without_a_status_shows_its_last_words(pretended):
    with pytest.raises(machine.MachineError, match="Kernel panic"):
        pretended("echo Kernel panic")


def test_a_machine_that_does_not_end_is_ended_with_all_its_processes(pretended, plan, monkeypatch):
    monkeypatch.setattr(machine, "POLL_S", 0.01)
    object.__setattr__(plan, "limit_s", 0.5)
    with pytest.raises(machine.MachineError, match="not done"):
        pretended("sleep 60 & echo $! >child; sleep 60")
    child = (plan.state / "child").read_text().strip()
    status = Path(f"/proc/{child}/stat")
    # Without a parent that collects it, it may stay as a zombie.
    assert not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"


@pytest.mark.parametrize(
    ("summary", "ran"),
    [
        ("4 passed in 80.1s", True),
        ("3 passed, 1 skipped in 3s", False),
        ("4 skipped in 0.2s", False),
        ("no tests ran in 0.1s", False),
    ],
)
def test_a_skipped_test_is_no_success_in_a_kernel_chosen_for_it(summary, ran):
    assert guest.all_ran(f"....\n{summary}\n") is ran


def test_only_errors_of_the_kernel_are_complaints():
    log = "nbd0: Connection timed out, retrying\nblk: I/O error, dev nbd0, sector 8\nEXT4-fs: ok"
    assert restarts.complaints(log) == ["blk: I/O error, dev nbd0, sector 8"]


def test_requests_that_time_out_together_count_once():
    line = "[{:12.6f}] block {}: Connection timed out, retrying (0/1 alive)"
    told = [(40.1, "nbd0"), (40.2, "nbd0"), (55.0, "nbd1"), (71.5, "nbd0")]
    log = "\n".join(line.format(*each) for each in told)
    assert [restarts.timeouts(log, name) for name in ("nbd0", "nbd1", "nbd2")] == [2, 1, 0]


def test_the_time_without_a_connection_is_that_of_the_device_asked_for():
    log = (
        "[  107.520000] block nbd0: Receive control failed (result -32)\n"
        "[  107.530000] block nbd1: Receive control failed (result -32)\n"
        "[  109.860000] block nbd0: Dead connection, failed to find a fallback\n"
        "[  124.620000] block nbd0: reconnected socket\n"
        "[  130.000000] block nbd0: Receive control failed (result -32)\n"
        "[  130.500000] block nbd0: reconnected socket\n"
    )
    found = [restarts.unconnected_s(log, name) for name in ("nbd0", "nbd1")]
    assert found == pytest.approx([17.1, 0.0])


def test_a_command_of_ones_own_keeps_its_options():
    assert arguments(["--limit", "60", "--", "pytest", "-x"]).command == ["pytest", "-x"]
    assert arguments([]).command == []


def test_the_module_that_the_guest_runs_exists():
    assert (ROOT / (GUEST.replace(".", "/") + ".py")).is_file()
