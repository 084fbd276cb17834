"""What the lab decides without a machine under it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.e2e.kube import kubectl, loops, manifests, settings, shell, tools
from tests.unit.source_tree import ROOT


@pytest.fixture
def lab(tmp_path: Path) -> settings.Lab:
    return settings.Lab(tmp_path / "lab", tmp_path / "cache")


def test_a_running_lab_knows_its_size_whatever_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("DRYSTONE_KUBE_DIR", str(tmp_path))
    monkeypatch.setenv("DRYSTONE_KUBE_NODES", "5")
    assert settings.from_environment().node_count == 5
    (tmp_path / "nodes").write_text("2")
    assert settings.from_environment().node_count == 2


@pytest.mark.parametrize("text", ["0", "10", "three", "-1"])
def test_an_impossible_number_of_nodes_is_refused_with_the_limit(monkeypatch, tmp_path, text):
    monkeypatch.setenv("DRYSTONE_KUBE_DIR", str(tmp_path))
    monkeypatch.setenv("DRYSTONE_KUBE_NODES", text)
    with pytest.raises(settings.LabError, match="1 to 9"):
        settings.from_environment()


def test_every_variable_of_the_lab_is_documented():
    page = (ROOT / "docs" / "development.md").read_text()
    used = set()
    for path in (ROOT / "tests" / "e2e" / "kube").glob("*.py"):
        words = path.read_text().replace('"', " ").replace("'", " ").split()
        used |= {word for word in words if word.startswith(("DRYSTONE_KUBE_", "DRYSTONE_IMAGE_"))}
    used -= {"DRYSTONE_KUBE_*"}
    assert used
    assert {name for name in used if f"`{name}`" not in page} == set()


@pytest.mark.parametrize(
    ("package", "go", "ours"),
    [
        ("go.etcd.io/etcd/server/v3", "server", "etcd"),
        ("helm.sh/helm/v3/cmd/helm", "helm", "helm"),
    ],
)
def test_programs_are_found_under_the_name_that_go_gives_them(package, go, ours):
    assert (tools.go_name(package), tools.program_name(package)) == (go, ours)


def test_a_group_is_built_again_when_a_version_changes_or_a_program_is_missing(lab):
    group = tools.Group("g", ("example.org/a",), ("example.org/a@v1",))
    lab.bin.mkdir(parents=True)
    (lab.bin / "a").touch()
    assert not tools.is_built(lab, group)
    (lab.bin / ".g").write_text(tools._stamp(group))
    assert tools.is_built(lab, group)
    assert not tools.is_built(lab, tools.Group("g", ("example.org/a",), ("example.org/a@v2",)))
    (lab.bin / "a").unlink()
    assert not tools.is_built(lab, group)


def test_a_process_with_the_id_of_a_dead_one_is_not_taken_for_it(tmp_path):
    started = shell.Started(tmp_path)
    started.remember("us", os.getpid())
    assert started.pid("us") == os.getpid()
    (tmp_path / "us").write_text(f"{os.getpid()} 1")
    assert started.pid("us") is None
    assert started.pid("nobody") is None


def test_only_loop_devices_that_still_hold_what_was_noted_are_detached(monkeypatch, tmp_path):
    monkeypatch.setattr(loops, "SYS_BLOCK", tmp_path / "sys")
    boot = loops.BOOT_ID.read_text().strip()
    notes = {
        "loop1": f"{boot} 11",  # ours
        "loop2": f"{boot} 11",  # given to somebody else since
        "loop3": f"{boot} 13",  # detached already
    }
    for name, sequence in (("loop1", 11), ("loop2", 12), ("loop3", 13)):
        device = tmp_path / "sys" / name
        device.mkdir(parents=True)
        (device / "diskseq").write_text(f"{sequence}\n")
        if name != "loop3":
            (device / "loop").mkdir()
            (device / "loop" / "backing_file").write_text("/volume\n")
        volume = tmp_path / "disk" / "drystone" / "lab" / name
        volume.mkdir(parents=True)
        (volume / loops.NOTE).write_text(json.dumps({"name": name, "content": notes[name]}))
    assert list(loops.noted(tmp_path / "disk")) == ["loop1"]


def test_names_of_objects_and_of_what_they_mount_fit_together():
    objects = [*manifests.foundation({"admin": "x"}), *manifests.daemons(), *manifests.csi()]
    objects.append(manifests.secret("join", {}))
    named = {(item["kind"], item["metadata"]["name"]) for item in objects}
    for item in objects:
        if "template" not in item.get("spec", {}):
            continue
        pod = item["spec"]["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted <= set(volumes), item["metadata"]["name"]
            files = [word for word in container.get("args", ()) if word.endswith(".toml")]
            assert {word.rpartition("/")[2] for word in files} <= set(manifests.SETTINGS)
        for volume in volumes.values():
            if "secret" in volume:
                assert ("Secret", volume["secret"]["secretName"]) in named
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in named


@pytest.mark.parametrize(
    ("status", "done"),
    [
        ({"observedGeneration": 1, "desiredNumberScheduled": 3, "numberReady": 3,
          "updatedNumberScheduled": 3}, False),
        ({"observedGeneration": 2, "desiredNumberScheduled": 3, "numberReady": 2,
          "updatedNumberScheduled": 3}, False),
        ({"observedGeneration": 2, "desiredNumberScheduled": 0}, False),
        ({"observedGeneration": 2, "desiredNumberScheduled": 3, "numberReady": 3,
          "updatedNumberScheduled": 3}, True),
    ],
)  # fmt: skip
def test_a_daemon_set_is_rolled_out_when_all_run_what_it_says_now(status, done):
    found = {"kind": "DaemonSet", "metadata": {"generation": 2}, "status": status}
    assert kubectl.rolled_out(found) is done
