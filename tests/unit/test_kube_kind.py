"""The end-to-end run in kind and the demonstration, as far as they need no cluster."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from tests.e2e.kube import (
    chart,
    cluster,
    demo,
    evidence,
    kind,
    kubectl,
    operated,
    settings,
    shell,
)
from tests.unit.source_tree import ROOT


@pytest.fixture
def lab(tmp_path: Path) -> kind.KindLab:
    return kind.KindLab(tmp_path / "lab", tmp_path / "cache")


def test_kind_makes_workers_with_the_names_that_the_scenarios_know(lab):
    made = yaml.safe_load(kind.config(lab))
    workers = [node for node in made["nodes"] if node["role"] == "worker"]
    assert (made["kind"], made["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert [node["role"] for node in made["nodes"]].count("control-plane") == 1
    names = [
        yaml.safe_load(patch)["nodeRegistration"]["name"]
        for node in workers
        for patch in node["kubeadmConfigPatches"]
    ]
    assert names == [settings.node_name(number) for number in lab.numbers()]


def test_every_worker_has_its_own_disks_the_machines_devices_and_is_a_storage_node(lab):
    workers = yaml.safe_load(kind.config(lab))["nodes"][1:]
    wanted = kind.storage_cluster(lab)["spec"]
    for number, node in zip(lab.numbers(), workers, strict=True):
        mounts = {mount["containerPath"]: mount["hostPath"] for mount in node["extraMounts"]}
        assert mounts == {"/dev": "/dev", chart.DISKS: str(lab.node(number) / "disks")}
        assert wanted["nodes"]["selector"].items() <= node["labels"].items()
    assert chart.DISKS in wanted["disks"]["folders"]


def test_the_lab_itself_makes_a_storage_cluster_on_all_nodes_still(lab):
    kind.storage_cluster(lab)
    assert "nodes" not in chart.storage_cluster(3)["spec"]


def test_rights_and_deletion_are_those_of_our_cluster_never_of_the_users(lab):
    for argv in (kind.create_argv(lab, lab.folder / "kind.yaml"), kind.delete_argv(lab)):
        assert argv[argv.index("--name") + 1] == kind.NAME
        assert argv[argv.index("--kubeconfig") + 1] == str(lab.kubeconfig)
    assert kind.NAME.startswith("drystone-")
    load = kind.load_argv(Path("image.tar"))
    assert load[:4] == ["kind", "load", "image-archive", "image.tar"]
    assert load[-1] == kind.NAME


def test_the_chart_in_kind_takes_upstreams_images_and_programs_are_those_of_path(lab):
    assert set(kind.values()) == {"image"}
    assert lab.program("kubectl") == "kubectl"


def test_scenarios_in_kind_are_all_but_those_that_need_what_only_the_lab_has():
    missing = {"disk", "etcd-member", "power-cut", "cold-start", "cold-start-two", "reinstall"}
    missing |= {"disk-replace", "maintenance", "node-remove"}
    assert set(operated.SCENARIOS) - set(kind.SCENARIOS) == missing
    assert set(kind.SCENARIOS) <= set(operated.SCENARIOS)


def test_what_is_missing_is_named_with_where_to_get_it(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "kind" else name)
    with pytest.raises(settings.LabError, match=r"kind \(https://kind\.sigs\.k8s\.io") as caught:
        kind.need()
    assert "docker" not in str(caught.value).split(";")[0]


def test_only_loop_devices_of_volumes_are_counted(tmp_path):
    for name, backing in (
        ("loop1", "/var/lib/drystone/main/block/fuse/1/volume"),
        ("loop2", "/home/somebody/disk.img"),
    ):
        folder = tmp_path / name / "loop"
        folder.mkdir(parents=True)
        (folder / "backing_file").write_text(f"{backing}\n")
    (tmp_path / "loop3").mkdir()
    assert kind.devices(tmp_path) == {"loop1"}


def test_the_tour_names_what_there_is(lab):
    shown = demo.tour(lab)
    assert not re.search(r"[{}]", shown)
    assert f"KUBECONFIG={lab.kubeconfig}" in shown
    assert str(lab.folder / demo.FILE) in shown
    assert "make kube-down" in shown
    assert all((ROOT / script).exists() for script in re.findall(r"scripts/\w+\.sh", shown))
    assert 8 <= len(demo.STOPS) <= 12


def test_the_pod_of_the_tour_mounts_the_claim_that_comes_with_it(lab):
    claim, deployment = demo.objects(lab)["items"]
    pod = deployment["spec"]["template"]["spec"]
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert deployment["metadata"]["namespace"] == claim["metadata"]["namespace"]
    assert demo.WRITE in pod["containers"][0]["command"]


@pytest.mark.parametrize(("there", "installs"), [(None, 1), ("main", 0)])
def test_the_demonstration_leaves_what_is_installed_as_it_is(
    monkeypatch, capsys, lab, there, installs
):
    done = []
    lab.folder.mkdir(parents=True)
    monkeypatch.setattr(cluster, "up", lambda lab, steps: done.append("up"))
    monkeypatch.setattr(operated, "some", lambda lab, steps, names: done.append(names))
    monkeypatch.setattr(kubectl.Kubectl, "try_run", lambda self, *words: there)
    demo.run(lab, shell.Steps())
    assert done == ["up", *[()] * installs]
    assert (lab.folder / demo.FILE).exists()
    assert demo.tour(lab) in capsys.readouterr().out


def test_a_run_in_kind_that_fails_deletes_its_cluster_and_nothing_else(monkeypatch, lab, tmp_path):
    ran = []

    def program(argv, **_):
        ran.append(" ".join(argv[:3]))
        if argv[:2] == ["kind", "create"]:
            raise settings.LabError("no room")

    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(kind, "run_program", program)
    monkeypatch.setattr(evidence, "show", lambda lab: None)
    monkeypatch.setattr(chart, "DISK_BYTES", 1)
    monkeypatch.setenv("DRYSTONE_IMAGE_ARCHIVE", str(tmp_path / "image.tar"))
    (tmp_path / "image.tar").touch()
    with pytest.raises(settings.LabError, match="no room"):
        kind.run(lab, shell.Steps())
    delete = "kind delete cluster"
    assert ran == ["docker info", delete, "kind create cluster", delete]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.tar"]
