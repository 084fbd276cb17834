"""What `local up` decides before it starts anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from drystone_cli.csi_process import CsiSettings, manager_urls
from drystone_common.errors import ConflictError, DataError, InvalidArgumentError, NotFoundError
from drystone_common.settings import load_settings
from drystone_storaged.local import configs, members, ports
from drystone_storaged.local.cluster import LocalCluster
from drystone_storaged.local.etcd import VERSION as ETCD_VERSION
from drystone_storaged.local.etcd import etcd_program
from drystone_storaged.local.health import problems
from drystone_storaged.local.layout import Layout
from drystone_storaged.local.lock import locked
from drystone_storaged.local.members import Wanted
from drystone_storaged.local.processes import Process, Processes
from drystone_storaged.manager.settings import ManagerSettings
from tests.unit.source_tree import ROOT


@pytest.fixture
def layout(tmp_path):
    layout = Layout(tmp_path / "c")
    layout.make_folders()
    return layout


def test_a_new_cluster_has_the_documented_defaults(layout):
    made = members.found(layout, Wanted())
    assert made.node_names() == ["manager-1", "node-1", "node-2", "node-3", "block-1"]
    assert made.drive_count() == 3
    assert made.servers[0].drives[0].size == 8 * 10**9
    assert len(made.ports()) == 3 + 3 * 4 + 1, "no port is given twice"


def test_members_survive_a_round_trip_and_endpoints_are_for_scripts(layout):
    made = members.found(layout, Wanted(consumers=2))
    members.save(layout, made)
    assert members.load(layout) == made
    data = json.loads(layout.cluster_file.read_text())
    assert data["endpoints"]["rest"] == made.rest_urls()[0]
    assert data["token_file"] == str(layout.token_file)
    assert data["endpoints"]["csi"]["block-1"].endswith("/csi/csi.sock")
    assert data["endpoints"]["csi"]["block-2"].endswith("/csi/2.sock")


def test_a_cluster_grows_and_keeps_what_it_has(layout):
    old = members.found(layout, Wanted(servers=1))
    new = members.grow(old, Wanted(servers=3, drives=2, consumers=2))
    assert new.servers[0].drives[0] == old.servers[0].drives[0]
    assert [len(s.drives) for s in new.servers] == [2, 2, 2]
    assert members.grow(new, Wanted()) == new


@pytest.mark.parametrize("wanted", [Wanted(servers=2), Wanted(consumers=0)])
def test_a_cluster_does_not_shrink(layout, wanted):
    made = members.found(layout, Wanted())
    with pytest.raises(ConflictError) as caught:
        members.grow(made, wanted)
    assert caught.value.code == "cannot_shrink"


@pytest.mark.parametrize("wanted", [Wanted(servers=0), Wanted(drives=13), Wanted(drive_size=4096)])
def test_impossible_wishes_are_refused(layout, wanted):
    with pytest.raises(InvalidArgumentError):
        members.found(layout, wanted)


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ConflictError) as caught:
        LocalCluster(tmp_path).up(Wanted())
    assert caught.value.code == "folder_not_empty"
    assert [p.name for p in tmp_path.iterdir()] == ["precious"]


def test_drive_files_without_their_cluster_file_are_never_formatted_over(layout):
    layout.drive("node-1", 1).parent.mkdir()
    layout.drive("node-1", 1).write_bytes(b"data")
    with pytest.raises(ConflictError) as caught:
        members.found(layout, Wanted())
    assert caught.value.code == "cluster_file_missing"


@pytest.mark.parametrize("text", ["", "[]", '{"version": 1}', "{", '{"version": 99}'])
def test_a_damaged_or_newer_cluster_file_is_a_typed_error(layout, text):
    layout.cluster_file.write_text(text)
    with pytest.raises(DataError):
        members.load(layout)


def test_commands_on_a_folder_without_a_cluster_say_what_to_do(tmp_path):
    with pytest.raises(NotFoundError) as caught:
        LocalCluster(tmp_path).status()
    assert "drystone local up" in (caught.value.hint or "")


def test_a_second_command_on_one_folder_is_refused(layout):
    with locked(layout), pytest.raises(ConflictError) as caught, locked(layout):
        pass
    assert caught.value.code == "folder_locked"


def test_every_process_gets_settings_that_its_program_accepts(layout):
    from drystone_cli.csi_process import CsiSettings
    from drystone_common.settings import load_settings
    from drystone_storaged.beacon.settings import BeaconSettings
    from drystone_storaged.block.settings import BlockSettings
    from drystone_storaged.manager.settings import ManagerSettings
    from drystone_storaged.server.settings import ServerSettings

    made = members.found(layout, Wanted(consumers=2))
    configs.write(layout, made)
    classes: dict[str, type[Any]] = {
        "manager": ManagerSettings, "server": ServerSettings, "beacon": BeaconSettings,
        "block": BlockSettings, "csi": CsiSettings,
    }  # fmt: skip
    for process in configs.processes(made):
        load_settings(classes[process.kind], file=layout.config(process.name))


def test_ports_are_free_distinct_and_outside_the_kernels_range():
    found = ports.pick(20, ())
    assert len(set(found)) == 20
    assert all(ports.FIRST <= port < ports.LAST and ports.is_free(port) for port in found)


def test_a_strangers_process_is_never_taken_for_ours(layout):
    processes = Processes(layout)
    process = Process("node-1-server", "server", "node-1")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        layout.pid(process.name).write_text(f"{stranger.pid}\n")
        assert processes.pid(process) is None
        assert not processes.signal(process, signal.SIGKILL)
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_our_process_is_recognised_frozen_and_stopped(layout):
    processes = Processes(layout)
    process = Process("node-1-server", "server", "node-1")
    argv = [sys.executable, "-c", "input()", str(layout.config(process.name))]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as child:
        layout.pid(process.name).write_text(f"{child.pid}\n")
        processes._wait_recognised(process, child)
        assert processes.state(process) == "running"
        processes.signal(process, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
        assert processes.state(process) == "frozen"
        assert processes.stop(process)
        assert processes.state(process) == "stopped"


@pytest.mark.parametrize("text", ["", "x", "-1", "0", "99999999999999999999"])
def test_a_damaged_pid_file_means_that_nothing_runs(layout, text):
    process = Process("node-1-server", "server", "node-1")
    layout.pid(process.name).write_text(text)
    assert Processes(layout).pid(process) is None


def test_why_a_server_refuses_drives_is_read_from_its_last_start(layout):
    process = Process("node-1-server", "server", "node-1")
    refused = {"event": "drive_refused", "path": "/1", "reason": "old"}
    events = [
        refused,
        {"event": "registered"},
        {**refused, "reason": "it is damaged"},
        {**refused, "path": "/2", "reason": "in use"},
        {"event": "drive_open", "path": "/2"},
    ]
    lines = [json.dumps(event) for event in events]
    layout.log(process.name).write_text("\n".join([*lines, "Traceback", "[]", "7"]))
    assert Processes(layout).refused_drives(process) == ["it is damaged"]


def test_health_names_what_is_missing(layout):
    made = members.found(layout, Wanted(servers=1))
    status = {
        "nodes": [{"name": "node-1", "state": "down"}, {"name": "block-1", "state": "up"}],
        "drives": [],
        "pgs": {"total": 64, "in_sync": 1},
    }
    assert problems(status, made) == [
        "node-1 not connected",
        "0 of 1 drives are up",
        "1 of 64 placement groups in sync",
    ]


def test_a_cluster_on_etcd_has_managers_that_share_store_and_secrets(layout):
    made = members.found(layout, Wanted(metadata="etcd"))
    assert made.node_names()[:4] == ["etcd-1", "manager-1", "manager-2", "manager-3"]
    assert made.version == members.VERSION, "an older program would take it for empty"
    assert len(made.ports()) == 2 + 3 * 3 + 3 * 4 + 1, "no port is given twice"
    members.ensure_tokens(layout)
    members.ensure_master(layout, made)
    members.save(layout, made)
    assert members.load(layout) == made
    configs.write(layout, made)
    settings = [
        load_settings(ManagerSettings, file=layout.config(manager.name))
        for manager in made.managers()
    ]
    assert {s.metadata for s in settings} == {"etcd"}
    for shared in ("master_path", "tokens_path"):
        assert len({getattr(s, shared) for s in settings}) == 1, shared
    assert len({s.state_dir for s in settings}) == 3
    assert settings[0].etcd_endpoints == (f"127.0.0.1:{made.etcd[0].client_port}",)
    etcd = json.loads(layout.config("etcd-1").read_text())
    assert etcd["advertise-client-urls"] == f"http://{settings[0].etcd_endpoints[0]}"
    server = tomllib.loads(layout.config("node-1-server").read_text())
    assert server["managers"] == [s.control_listen for s in settings]
    csi = load_settings(CsiSettings, file=layout.config("csi-1"))
    assert manager_urls(csi) == made.rest_urls()
    before = layout.master_file.read_text()
    members.ensure_master(layout, made)
    assert layout.master_file.read_text() == before
    layout.master_file.unlink()
    members.ensure_master(layout, made)
    assert not layout.master_file.exists(), "a lost key is never replaced by another one"


def test_a_cluster_of_an_older_version_still_loads_and_stays_as_it_is(layout):
    made = members.found(layout, Wanted())
    members.save(layout, made)
    data = json.loads(layout.cluster_file.read_text())
    for added in ("metadata", "standbys", "etcd"):
        del data[added]
    layout.cluster_file.write_text(json.dumps(data))
    loaded = members.load(layout)
    assert loaded == made
    assert (loaded.version, loaded.metadata, len(loaded.managers())) == (1, "sqlite", 1)
    assert members.grow(loaded, Wanted()) == loaded


@pytest.mark.parametrize("wanted", [Wanted(metadata="etcd"), Wanted(managers=3)])
def test_a_cluster_keeps_its_store_and_its_managers(layout, wanted):
    with pytest.raises(ConflictError) as caught:
        members.grow(members.found(layout, Wanted()), wanted)
    assert caught.value.code == "cannot_change"


@pytest.mark.parametrize(
    "wanted", [Wanted(managers=2), Wanted(metadata="etcd", managers=0), Wanted(managers=0),
               Wanted(metadata="etcd", managers=6)],
)  # fmt: skip
def test_impossible_numbers_of_managers_are_refused(layout, wanted):
    with pytest.raises(InvalidArgumentError) as caught:
        members.found(layout, wanted)
    assert caught.value.code == "invalid_count"


def test_without_an_etcd_program_it_is_said_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DRYSTONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("DRYSTONE_ETCD", raising=False)
    with pytest.raises(NotFoundError) as caught:
        LocalCluster(tmp_path / "c").up(Wanted(metadata="etcd"))
    assert caught.value.code == "etcd_missing"
    assert "make etcd" in (caught.value.hint or "")
    monkeypatch.setenv("DRYSTONE_ETCD", str(tmp_path / "nothing"))
    with pytest.raises(NotFoundError) as caught:
        etcd_program()
    assert "DRYSTONE_ETCD" in caught.value.message
    built = tmp_path / "cache" / f"etcd-{ETCD_VERSION}" / "etcd"
    built.parent.mkdir(parents=True)
    built.write_text("#!/bin/sh\n")
    built.chmod(0o755)
    monkeypatch.delenv("DRYSTONE_ETCD")
    assert etcd_program() == str(built)


def test_the_version_of_etcd_is_the_same_everywhere():
    lib = (ROOT / "scripts" / "lib.sh").read_text()
    assert f'ETCD_VERSION="{ETCD_VERSION}"' in lib
    required = f"go.etcd.io/etcd/server/v3 {ETCD_VERSION}"
    assert required in (ROOT / "scripts" / "etcd" / "go.mod").read_text()
