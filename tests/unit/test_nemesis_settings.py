"""A run knows its groups and addresses, and a machine has only one run."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from drystone_common.processes import process_state
from tests.e2e.lib.shell import LabError, Started
from tests.e2e.lib.waits import wait_for
from tests.e2e.nemesis import lifecycle
from tests.e2e.nemesis.netns import argv_in
from tests.e2e.nemesis.settings import Lab, address, from_environment, held, left_behind
from tests.unit.source_tree import ROOT


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "lock"


def test_three_servers_have_managers_beside_them_and_five_have_them_on_their_nodes(tmp_path):
    assert Lab(tmp_path).groups == ("m1", "m2", "m3", "n1", "n2", "n3", "c1", "c2")
    large = Lab(tmp_path, servers=5, blocks=3)
    assert large.manager_groups == ("n1", "n2", "n3")
    assert large.groups == ("n1", "n2", "n3", "n4", "n5", "c1", "c2", "c3")


def test_every_group_has_an_address_of_its_own(tmp_path):
    groups = {*Lab(tmp_path, blocks=3).groups, *Lab(tmp_path, servers=5).groups}
    assert len({address(group) for group in groups}) == len(groups)
    assert address("n2") == "10.199.0.22"


@pytest.mark.parametrize("group", ["", "x1", "n", "node"])
def test_a_group_that_there_is_not_is_refused(group):
    with pytest.raises(LabError, match="no group"):
        address(group)


@pytest.mark.parametrize("sizes", [{"servers": 4}, {"blocks": 0}, {"blocks": 4}])
def test_a_size_that_no_run_has_is_refused(tmp_path, sizes):
    with pytest.raises(LabError, match="a run has"):
        Lab(tmp_path, **sizes)


def test_the_path_of_a_socket_is_short_however_long_the_folder_is(tmp_path):
    lab = Lab(tmp_path / ("x" * 200))
    assert len(str(lab.shared / "servers" / "n1.sock")) < 100
    assert lab.shared != Lab(tmp_path).shared


def test_every_variable_of_a_run_is_documented():
    page = (ROOT / "docs" / "development.md").read_text()
    used = set()
    for path in (ROOT / "tests" / "e2e" / "nemesis").glob("*.py"):
        words = path.read_text().replace('"', " ").split()
        used |= {word for word in words if word.startswith("DRYSTONE_NEMESIS_")}
    assert used
    assert {name for name in used if f"`{name}`" not in page} == set()


def test_the_folder_is_the_one_that_the_environment_names(monkeypatch, tmp_path):
    monkeypatch.setenv("DRYSTONE_NEMESIS_DIR", str(tmp_path))
    assert from_environment(servers=5).folder == tmp_path


def test_a_second_run_is_refused_with_the_id_of_the_first(tmp_path, lock):
    with (
        held(tmp_path / "a", path=lock) as died,
        pytest.raises(LabError, match=str(os.getpid())),
        held(tmp_path / "b", path=lock),
    ):
        raise AssertionError
    assert died == []
    assert not lock.exists()


def test_the_lock_is_free_again_after_a_run_that_failed(tmp_path, lock):
    with pytest.raises(ZeroDivisionError), held(tmp_path, path=lock):
        raise ZeroDivisionError
    assert left_behind(lock) == []
    with held(tmp_path, path=lock):
        assert left_behind(lock) == [tmp_path]


def test_folders_of_runs_that_died_are_named_until_they_remember_no_process(tmp_path, lock):
    first, second = Lab(tmp_path / "first"), Lab(tmp_path / "second")
    first.pids.mkdir(parents=True)
    lock.write_text(f"4194305\n{first.folder}\n")
    with held(second.folder, path=lock) as died:
        assert died == [first.folder]
    assert left_behind(lock) == [second.folder, first.folder]
    with held(second.folder, path=lock):
        first.pids.rmdir()
    assert not lock.exists()


def test_a_lock_file_with_garbage_names_no_folder(tmp_path, lock):
    lock.write_bytes(b"\xff\x00 relative\nnot/absolute\n")
    with held(tmp_path, path=lock) as died:
        assert died == []


def test_a_folder_with_files_of_somebody_is_refused(tmp_path):
    (tmp_path / "letter").touch()
    with pytest.raises(LabError, match="no run's"):
        lifecycle._make_folder(Lab(tmp_path), keep=False)


def test_a_folder_of_a_run_before_is_used_again(tmp_path):
    lab = Lab(tmp_path / "lab")
    lifecycle._make_folder(lab, keep=True)
    (lab.folder / "journal").touch()
    lifecycle._make_folder(lab, keep=True)
    assert (lab.folder / "journal").exists()


def test_a_program_in_a_group_is_the_same_process():
    assert argv_in("c1", ["etcd"]) == ["nsenter", "--net=/run/netns/dsnem-c1", "etcd"]


def test_a_process_gets_its_signals_and_its_environment_and_no_other_with_its_id_does(tmp_path):
    started = Started(tmp_path / "pids")
    program = "import os, time; print(os.environ['WORD'], flush=True); time.sleep(600)"
    log = tmp_path / "log"
    pid = started.start("one", [sys.executable, "-c", program], log, env={"WORD": "stone"})
    try:
        wait_for(lambda: log.read_text() == "stone\n", "the program to run", 60)
        assert started.signal("one", signal.SIGSTOP)
        wait_for(lambda: process_state(pid) == "T", "it to stop", 60)
        began = (tmp_path / "pids" / "one").read_text()
        (tmp_path / "pids" / "one").write_text(f"{pid} 1")
        assert not started.signal("one", signal.SIGKILL)
        (tmp_path / "pids" / "one").write_text(began)
    finally:
        started.kill("one")
        started.wait_gone("one")
    assert not started.signal("one", signal.SIGKILL)
    assert started.names() == []


@pytest.fixture
def sleeper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Lab, Started]]:
    # Namespaces are the machine's: somebody's run may be going.
    monkeypatch.setattr(lifecycle, "_namespaces", list)
    monkeypatch.setattr(lifecycle, "_links", list)
    lab = Lab(tmp_path / "lab")
    started = Started(lab.pids)
    started.start("sleeper", ["sleep", "600"], tmp_path / "log")
    yield lab, started
    started.kill("sleeper")
    started.wait_gone("sleeper")


@pytest.mark.parametrize("keep", [False, True])
def test_a_run_that_ends_kills_what_it_started_and_removes_its_folder_unless_it_is_kept(
    sleeper, keep
):
    lab, started = sleeper
    lab.mark.write_text(lifecycle.KEPT if keep else lifecycle.OURS)
    lab.shared.mkdir()
    lifecycle._remove(lab, started)
    assert started.pid("sleeper") is None
    assert (lab.folder.exists(), lab.pids.exists(), lab.shared.exists()) == (keep, False, False)


def test_in_a_folder_that_no_run_marked_nothing_is_killed_or_removed(sleeper):
    lab, started = sleeper
    lifecycle._remove(lab)
    assert started.pid("sleeper") is not None
