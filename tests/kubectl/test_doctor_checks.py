"""Facts to findings: each check with facts that a test made up."""

from __future__ import annotations

import json
import platform
import socket
from dataclasses import replace

import pytest

from drystone_cli.doctor import gather, net
from drystone_cli.doctor.cluster_checks import check_cluster
from drystone_cli.doctor.facts import ClockBounds, ClusterFacts, KubeNode, NodeFacts, node_facts
from drystone_cli.doctor.findings import Level, healthy
from drystone_cli.doctor.node_checks import check_node
from drystone_common.errors import InvalidArgumentError

WELL = NodeFacts(
    node="a", root=True, kernel="6.1.0-13-amd64", io_uring=True,
    modules={"nbd": "loaded", "fuse": "loaded", "loop": "loaded", "ublk_drv": "absent"},
    fuse_device=True, loop_control=True, cgroup=2, memory_total=16 << 30,
    memory_available=8 << 30, hugepages=0, kubelet_dir="/var/lib/kubelet", kubelet_shared=True,
    ports={"tcp 8470": "free", "tcp 8491": "python3 (drystone)"}, clock=1.0,
    clock_synchronized=True, interface="eth0", mtu=1500,
    peers={"10.0.0.2": {"whole": True, "ports": {"8470": True}}}, names={"kubernetes": True},
)  # fmt: skip

CLUSTER = ClusterFacts(
    version=(1, 34), namespace="drystone", namespace_there=True, enforce="privileged", crds=True,
    driver=True, storage_cluster="main", default_classes=("drystone",),
    snapshot_definitions=True, snapshot_controller=True, nodes=(KubeNode("a", ready=True),),
    managers="", clocks={"a": ClockBounds(-0.5, 0.5), "b": ClockBounds(-0.4, 0.6)},
)  # fmt: skip


def of(facts: NodeFacts, check: str) -> list[tuple[str, str, str]]:
    return [(f.level.value, f.message, f.todo) for f in check_node(facts) if f.check == check]


def level(facts: NodeFacts, check: str) -> str:
    (found,) = of(facts, check)
    return found[0]


def test_a_machine_that_has_everything_has_only_good_findings():
    found = check_node(WELL)
    assert {f.level for f in found} == {Level.OK}
    assert {f.check for f in found} == {
        "kernel", "io_uring", "module nbd", "module fuse", "module loop", "module ublk", "cgroup",
        "memory", "mount propagation", "ports", "clock", "path MTU", "reachable", "DNS",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "check", "wanted"),
    [
        ({"kernel": "5.10.0"}, "kernel", "problem"),
        ({"kernel": "5.19.0"}, "kernel", "ok"),
        ({"kernel": "strange"}, "kernel", "unknown"),
        ({"io_uring": False}, "io_uring", "problem"),
        ({"cgroup": 1}, "cgroup", "warning"),
        ({"memory_available": 100 << 20}, "memory", "warning"),
        ({"hugepages": 8 << 30}, "hugepages", "warning"),
        ({"hugepages": 1 << 30}, "hugepages", "ok"),
        ({"kubelet_shared": False}, "mount propagation", "problem"),
        ({"ports": {"tcp 8470": "nginx, process 7"}}, "ports", "problem"),
        ({"ports": {"tcp 8470": "?"}}, "ports", "warning"),
        ({"clock_synchronized": False}, "clock", "warning"),
        ({"peers": {"b": {"whole": False, "ports": {}}}}, "path MTU", "problem"),
        ({"peers": {"b": {"whole": None, "ports": {"8470": False}}}}, "reachable", "problem"),
        ({"names": {"kubernetes": False}}, "DNS", "problem"),
        ({"root": False}, "rights", "unknown"),
    ],
)
def test_each_fact_that_is_not_well_is_told_with_what_to_do(change, check, wanted):
    facts = replace(WELL, **change)
    found = of(facts, check)
    assert [f[0] for f in found] == [wanted]
    assert all(todo for lvl, _, todo in found if lvl in ("warning", "problem"))
    assert healthy(check_node(facts)) == (wanted != "problem")


@pytest.mark.parametrize(
    ("nbd", "fuse", "loop", "wanted"),
    [
        ("loaded", False, False, {"module nbd": "ok", "module fuse": "ok", "module loop": "ok"}),
        ("available", True, True, {"module nbd": "warning", "module fuse": "ok"}),
        ("absent", True, True, {"module nbd": "warning", "module loop": "ok"}),
        ("absent", False, True, {"module fuse": "problem", "module loop": "ok"}),
        ("available", True, False, {"module loop": "problem"}),
        (None, True, True, {"module nbd": "unknown", "module fuse": "ok"}),
    ],
)
def test_one_way_to_make_devices_is_enough(nbd, fuse, loop, wanted):
    modules = {"nbd": nbd, "fuse": "absent", "loop": "absent"}
    facts = replace(WELL, modules=modules, fuse_device=fuse, loop_control=loop)
    for check, result in wanted.items():
        assert level(facts, check) == result


def test_what_nobody_could_look_at_has_no_finding():
    assert check_node(NodeFacts(node="a")) == []
    assert [f.check for f in check_cluster(ClusterFacts(), {})] == []


def test_facts_travel_as_json_and_what_another_version_adds_is_left_out():
    data = json.loads(json.dumps(WELL.as_dict()))
    assert node_facts({**data, "later": 1}) == WELL
    assert node_facts({"ports": None, "node": "x"}) == NodeFacts(node="x")


def test_a_cluster_that_has_everything_has_only_good_findings():
    found = check_cluster(CLUSTER, {"a": WELL, "b": WELL})
    assert {f.level for f in found} == {Level.OK}
    assert len(found) == 9


@pytest.mark.parametrize(
    ("change", "check", "wanted"),
    [
        ({"version": (1, 30)}, "Kubernetes", "problem"),
        ({"crds": False, "storage_cluster": "", "driver": None}, "definitions", "warning"),
        ({"storage_cluster": ""}, "StorageCluster", "warning"),
        ({"driver": False}, "CSIDriver", "problem"),
        ({"enforce": "restricted"}, "privileges", "problem"),
        ({"enforce": ""}, "privileges", "warning"),
        ({"namespace_there": False}, "namespace", "warning"),
        ({"default_classes": ("a", "b")}, "StorageClass", "warning"),
        ({"default_classes": ()}, "StorageClass", "ok"),
        ({"snapshot_controller": False}, "snapshots", "warning"),
        ({"snapshot_controller": None}, "snapshots", "ok"),
        ({"snapshot_definitions": False}, "snapshots", "ok"),
        ({"managers": "no manager runs"}, "managers", "problem"),
        ({"nodes": (KubeNode("a", ready=False),)}, "node", "warning"),
        ({"not_probed": {"a": "no image"}}, "node", "unknown"),
    ],
)
def test_each_fact_of_a_cluster_that_is_not_well_is_told(change, check, wanted):
    found = [f for f in check_cluster(replace(CLUSTER, **change), {}) if f.check == check]
    assert [f.level.value for f in found] == [wanted]
    assert all(f.todo for f in found if f.level in (Level.WARNING, Level.PROBLEM))


@pytest.mark.parametrize(
    ("second", "wanted"),
    [
        (ClockBounds(0.9, 3.0), "ok"),  # the look took long: nothing is proven
        (ClockBounds(2.0, 3.0), "warning"),
        (ClockBounds(-3.0, -2.0), "warning"),
        (ClockBounds(400.0, 401.0), "problem"),
    ],
)
def test_clocks_differ_only_where_the_length_of_the_look_cannot_explain_it(second, wanted):
    clocks = {"a": ClockBounds(-0.5, 0.5), "b": second}
    found = check_cluster(replace(ClusterFacts(), clocks=clocks), {})
    assert [(f.check, f.level.value) for f in found] == [("clocks", wanted)]


def test_the_node_whose_mtu_is_not_that_of_the_others_is_named():
    nodes = {name: NodeFacts(node=name, mtu=1500) for name in "abc"}
    nodes["d"] = NodeFacts(node="d", mtu=9000)
    nodes["e"] = NodeFacts(node="e")
    (found,) = check_cluster(ClusterFacts(), nodes)
    assert (found.check, found.node, found.level) == ("MTU", "d", Level.WARNING)


MOUNTS = """22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw
30 22 254:0 / /var rw,relatime - ext4 /dev/vdb rw
31 30 254:0 /k /var/lib/kubelet rw shared:7 master:3 - ext4 /dev/vdb rw
"""


@pytest.mark.parametrize(
    ("folder", "wanted"),
    [("/var/lib/kubelet", True), ("/var/lib/kubelets", False), ("/srv", True), ("", None)],
)
def test_the_mount_that_a_folder_is_in_decides_about_its_propagation(folder, wanted):
    assert gather.shared(MOUNTS, folder) is wanted


def test_a_module_is_looked_for_in_memory_and_in_the_folder_of_the_kernel(tmp_path):
    assert gather.module("nbd", tmp_path) is None
    folder = tmp_path / "lib/modules" / platform.release()
    folder.mkdir(parents=True)
    (folder / "modules.builtin").write_text("kernel/drivers/block/loop.ko\n")
    (folder / "modules.dep").write_text("kernel/drivers/block/nbd.ko.xz:\n")
    (tmp_path / "sys/module/fuse").mkdir(parents=True)
    found = [gather.module(name, tmp_path) for name in ("nbd", "loop", "fuse", "ublk_drv")]
    assert found == ["available", "loaded", "loaded", "absent"]


def test_this_machine_can_be_looked_at_and_a_port_that_is_taken_is_seen():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        taken = net.listening([("tcp", port)])[f"tcp {port}"]
        assert net.look(net.Peer("127.0.0.1", (port,)), 1500)["ports"] == {str(port): True}
    assert taken != "free"
    facts = gather.gather("me", ports=False, names=["localhost"])
    assert facts.node == "me"
    assert facts.memory_total
    assert json.loads(json.dumps(facts.as_dict()))["names"] == {"localhost": True}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10.0.0.2", net.Peer("10.0.0.2")),
        ("10.0.0.2:1,2", net.Peer("10.0.0.2", (1, 2))),
        ("[fd00::1]:5", net.Peer("fd00::1", (5,))),
        ("fd00::1", net.Peer("fd00::1")),
    ],
)
def test_a_peer_is_a_host_with_or_without_ports(text, wanted):
    assert net.parse_peer(text) == wanted
    with pytest.raises(InvalidArgumentError):
        net.parse_peer("host:x")
