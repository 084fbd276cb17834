"""What `drystone local` says and repairs when an operator meets something odd."""

from __future__ import annotations

import json
import os

import pytest

from drystone_common.errors import (
    ConflictError,
    DataError,
    DeadlineError,
    InvalidArgumentError,
)
from drystone_storaged.local import devices, health, members
from drystone_storaged.local.cluster import LocalCluster
from drystone_storaged.local.health import Waiter
from drystone_storaged.local.layout import Layout
from drystone_storaged.local.members import Wanted
from drystone_storaged.local.processes import Process, Processes

SERVER = Process("node-1-server", "server", "node-1")


@pytest.fixture
def layout(tmp_path) -> Layout:
    made = Layout(tmp_path)
    made.make_folders()
    return made


def tokens(layout: Layout) -> dict[str, str]:
    pairs = [line.split() for line in layout.tokens_file.read_text().splitlines()]
    return {words[0]: words[1] for words in pairs}


@pytest.mark.parametrize("content", [None, "", "wrong\n"])
def test_a_lost_or_wrong_token_is_written_anew_as_the_manager_knows_it(layout, content):
    members.ensure_tokens(layout)
    known = tokens(layout)
    layout.token_file.unlink()
    if content is not None:
        layout.token_file.write_text(content)
    members.ensure_tokens(layout)
    assert layout.token_file.read_text() == known["admin"] + "\n"
    assert tokens(layout) == known


def test_a_drive_that_could_not_hold_its_segments_is_refused_before_it_is_made(layout):
    with pytest.raises(InvalidArgumentError) as caught:
        members.found(layout, Wanted(drive_size=1 << 30))
    assert "2Gi" in (caught.value.hint or "")
    assert members.found(layout, Wanted(drive_size=2 << 30)).drive_count() == 3


@pytest.mark.parametrize(
    ("wanted", "span"), [({"servers": 0}, "1 to"), ({"consumers": -1}, "0 to")]
)
def test_an_impossible_count_is_answered_with_the_possible_ones(layout, wanted, span):
    with pytest.raises(InvalidArgumentError) as caught:
        members.found(layout, Wanted(**wanted))
    assert span in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"version": 1}'])
def test_a_damaged_cluster_file_is_never_to_be_removed(layout, text):
    layout.cluster_file.write_text(text)
    with pytest.raises(DataError) as caught:
        members.load(layout)
    assert "restore it" in (caught.value.hint or "")
    assert "remove" not in (caught.value.hint or "")


def test_a_server_is_outdated_when_its_settings_are_younger_than_its_start(layout):
    processes = Processes(layout)
    assert not processes.is_outdated(SERVER)
    config, pid = layout.config(SERVER.name), layout.pid(SERVER.name)
    config.write_text("")
    pid.write_text("1\n")
    os.utime(config, ns=(1, 1))
    os.utime(pid, ns=(2, 2))
    assert not processes.is_outdated(SERVER)
    os.utime(config, ns=(3, 3))
    assert processes.is_outdated(SERVER)


def test_what_ended_a_process_is_told_without_the_log_around_it(layout):
    lines = [json.dumps({"event": "stopped"}), "error: the port is taken", "hint: another one"]
    layout.log(SERVER.name).write_text("\n".join(lines))
    error = Processes(layout).died(SERVER)
    assert error.message == "node-1-server ended at once: the port is taken"
    assert str(layout.log(SERVER.name)) in (error.hint or "")
    assert "another one" in (error.hint or ""), "the program's own advice comes first"


def test_starting_one_node_writes_a_lost_token_anew(layout, monkeypatch):
    members.ensure_tokens(layout)
    members.save(layout, members.found(layout, Wanted()))
    layout.token_file.unlink()
    monkeypatch.setattr(LocalCluster, "_start", lambda *_: False)
    monkeypatch.setattr(Waiter, "until", lambda *_: None)
    LocalCluster(layout.root).start("manager-1")
    assert layout.token_file.read_text() == tokens(layout)["admin"] + "\n"


def test_a_frozen_process_is_an_issue_that_says_how_to_wake_it(layout, monkeypatch):
    members.ensure_tokens(layout)
    members.save(layout, members.found(layout, Wanted()))
    monkeypatch.setattr(
        Processes, "state", lambda _, p: "frozen" if p.name == SERVER.name else "running"
    )
    issues = LocalCluster(layout.root).status()["issues"]
    assert any("node-1-server is frozen" in i and "local start node-1" in i for i in issues)


def test_a_node_that_was_forgotten_is_told_how_to_come_in_again(layout):
    layout.log(SERVER.name).write_text("error: manager x: the join token is not valid\nhint: y\n")
    error = Processes(layout).died(SERVER)
    assert str(layout.state("node-1")) in (error.hint or "")


def refuse_a_drive(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    event = {"event": "drive_refused", "path": "/1", "reason": "it is too small"}
    layout.log(SERVER.name).write_text(json.dumps(event) + "\n")
    monkeypatch.setattr(Processes, "pid", lambda _self, _process: 1)


def test_a_refused_drive_ends_the_wait_for_drives_with_its_reason(layout, monkeypatch):
    refuse_a_drive(layout, monkeypatch)
    monkeypatch.setattr(health, "REFUSED_S", 0.0)
    waiter = Waiter(Processes(layout), [SERVER], lambda _line: None)
    with pytest.raises(DataError) as caught:
        waiter.until_drives(lambda: 0, 1)
    assert "node-1: it is too small" in caught.value.message
    waiter.until_drives(lambda: 1, 1)


def test_a_wait_that_ends_says_where_to_look(layout, monkeypatch):
    monkeypatch.setattr(Processes, "pid", lambda _self, _process: 1)
    waiter = Waiter(Processes(layout), [SERVER], lambda _line: None)
    with pytest.raises(DeadlineError) as caught:
        waiter.until("nothing came", lambda: False, 0.0)
    assert "drystone local status" in (caught.value.hint or "")


def test_local_status_names_refused_drives_and_how_to_start_a_silent_manager(layout, monkeypatch):
    made = members.found(layout, Wanted(servers=1, consumers=0))
    members.ensure_tokens(layout)
    members.save(layout, made)
    refuse_a_drive(layout, monkeypatch)
    issues = LocalCluster(layout.root).status()["issues"]
    assert any("drystone local start manager-1" in issue for issue in issues)
    assert "node-1: it is too small" in issues


class Consumers:
    """Devices of consumers, as ``destroy`` sees them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, left: tuple[str, ...]) -> None:
        self.left = left
        self.removed: list[str] = []
        monkeypatch.setattr(devices, "detach_all", self.detach_all)
        monkeypatch.setattr(devices, "remove_left", self.remove_left)
        monkeypatch.setattr(Processes, "state", lambda _self, _process: "running")

    def detach_all(self, _socket, *, force: bool) -> devices.Outcome:
        if not force:
            raise ConflictError("another operation on volume 1 is under way", code="busy")
        return devices.Outcome(1, self.left)

    def remove_left(self, state) -> list[str]:
        self.removed.append(state.name)
        return list(self.left)


def folder(layout: Layout) -> None:
    made = members.found(layout, Wanted(servers=1, consumers=2))
    members.ensure_tokens(layout)
    members.save(layout, made)


def test_a_forced_destroy_does_not_mind_a_volume_that_is_being_attached(layout, monkeypatch):
    folder(layout)
    consumers = Consumers(monkeypatch, ("1: another operation is under way",))
    told: list[str] = []
    cluster = LocalCluster(layout.root, told.append)
    with pytest.raises(ConflictError, match="under way"):
        cluster.destroy()
    assert layout.cluster_file.exists()
    cluster.destroy(force=True)
    assert consumers.removed == ["block-1", "block-2"]
    assert not layout.root.exists()
    assert any("another operation" in line for line in told)


def test_a_forced_destroy_goes_by_the_files_where_the_list_is_damaged(layout, monkeypatch):
    folder(layout)
    layout.cluster_file.write_text("{")
    (layout.state("block-7") / "attachments").mkdir(parents=True)
    for name in ("manager-1", "node-1-server", "csi-1", "block-7"):
        layout.pid(name).write_text("1\n")
    consumers = Consumers(monkeypatch, ())
    asked: list[Process] = []
    monkeypatch.setattr(LocalCluster, "_stop_all", lambda _self, found: asked.extend(found))
    with pytest.raises(DataError):
        LocalCluster(layout.root).destroy()
    LocalCluster(layout.root).destroy(force=True)
    assert consumers.removed == ["block-7"]
    assert {(p.kind, p.node) for p in asked} == {
        ("manager", "manager-1"), ("server", "node-1"), ("csi", "csi-1"), ("block", "block-7")
    }  # fmt: skip
    assert not layout.root.exists()
