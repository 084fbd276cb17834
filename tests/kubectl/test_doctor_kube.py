"""`drystone doctor` with a Kubernetes: from pods of ours, from pods for it, and what is removed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from drystone_cli.doctor import kube_command, probes
from drystone_cli.doctor.facts import KubeNode, NodeFacts
from drystone_cli.doctor.probes import Ask, parsed, pod
from drystone_common.errors import DataError
from tests.kubectl import cluster as made
from tests.kubectl.cluster import NAMESPACE, manager

STATUS = {
    "health": "ok", "issues": [], "nodes": [], "pgs": {}, "resync": {},
    "drives": [
        {"id": 1, "state": "up", "addr": "10.0.0.2:8470"},
        {"id": 2, "state": "down", "addr": "10.0.0.2:8471"},
    ],
}  # fmt: skip


def node(name: str, address: str, ready: str = "True") -> dict[str, Any]:
    return {
        "metadata": {"name": name},
        "status": {
            "conditions": [{"type": "Ready", "status": ready}],
            "addresses": [{"type": "InternalIP", "address": address}],
            "nodeInfo": {"kernelVersion": "6.1.0", "kubeletVersion": "v1.34.4"},
        },
    }


def answer(**facts: Any) -> str:
    known = NodeFacts(**{"kernel": "6.1.0", "io_uring": True, "mtu": 1500, **facts})
    return json.dumps({"healthy": True, "findings": [], "facts": known.as_dict()})


@pytest.fixture
def cluster(world):
    """Two nodes: `a` has a server and a CSI pod, `b` has nothing of ours."""
    labels = {"pod-security.kubernetes.io/enforce": "baseline"}
    world.kube.put("namespaces", {"metadata": {"name": NAMESPACE, "labels": labels}})
    world.kube.put("nodes", node("a", "10.0.0.1"))
    world.kube.put("nodes", node("b", "10.0.0.2"))
    world.kube.put("nodes", node("c", "10.0.0.3", "False"))
    world.kube.put("pods", made.pod("server", "a"))
    world.kube.put("pods", made.pod("csi-node", "a"))
    world.pod_prints("main-server-0", answer(kubelet_shared=None))
    world.pod_prints("main-csi-node-0", answer(kubelet_shared=False, mtu=1450))
    return world


def rows(result: Any) -> dict[tuple[str, str], str]:
    return {(f["check"], f["node"]): f["level"] for f in json.loads(result.stdout)["findings"]}


def end_pods(kube: Any, text: str, phase: str = "Succeeded") -> None:
    """Whatever pod is made to look at a node ends at once, and this is its log."""
    create = kube._create

    def ended(kind: Any, namespace: str, body: Any) -> Any:
        found = create(kind, namespace, body)
        name = found["metadata"]["name"]
        kube.logs[f"{name}/doctor/"] = text
        return kube.change("pods", name, namespace, {"status": {"phase": phase}})

    kube._create = ended


def test_nodes_are_looked_at_from_pods_of_ours_and_else_from_pods_that_are_removed(cluster):
    end_pods(cluster.kube, "some line\n" + answer(mtu=9000))
    with manager(answers={"GET /v1/status": STATUS}) as served:
        cluster.kube.put("pods", made.pod("manager", "a"))
        cluster.pod_answers("main-manager-0", served.address)
        result = cluster.run("doctor", "-o", "json")
    found = rows(result)
    assert result.exit_code == 1, "a label that refuses our pods is a problem"
    assert found["privileges", ""] == "problem"
    assert found["Kubernetes", ""] == "ok"
    assert found["managers", ""] == "ok"
    assert found["StorageCluster", ""] == "ok"
    assert found["kernel", "a"] == "ok"
    assert found["kernel", "b"] == "ok"
    assert found["mount propagation", "a"] == "problem", "as the CSI pod sees it"
    assert ("MTU", "a") in found or ("MTU", "b") in found, "the server's, not the CSI pod's"
    assert found["node", "c"] == "warning"
    assert not [p for p in cluster.kube.all("pods") if probes.LABEL in p["metadata"]["labels"]]
    asked = next(argv for argv in cluster.called() if argv[0] == "exec" and "main-server-0" in argv)
    assert asked[asked.index("--peer") + 1] == "10.0.0.2:8470", "the drive that is up there"
    assert "--no-ports" in asked
    inside = next(argv for argv in cluster.called() if "main-csi-node-0" in argv)
    assert "--peer" not in inside, "it is not on the node's network"
    assert inside[inside.index("--container") + 1] == "csi"


def test_a_pod_that_was_left_by_an_earlier_run_is_removed_and_that_of_another_run_is_not(cluster):
    labels = {probes.LABEL: "other"}
    for name, since in (("old", "2020-01-01T00:00:00Z"), ("new", "2199-01-01T00:00:00Z")):
        body = {"metadata": {"name": name, "namespace": NAMESPACE, "labels": labels}, "spec": {}}
        cluster.kube.put("pods", body)
        stamp = {"metadata": {"creationTimestamp": since}}
        cluster.kube.change("pods", name, NAMESPACE, stamp)
        place = ("pods", NAMESPACE, name)
        cluster.kube.objects[place]["metadata"]["creationTimestamp"] = since
    end_pods(cluster.kube, answer())
    cluster.run("doctor")
    left = [p["metadata"]["name"] for p in cluster.kube.all("pods") if not p["spec"]]
    assert left == ["new"]


def test_a_node_that_cannot_be_looked_at_says_why_and_holds_nothing_up(cluster):
    end_pods(cluster.kube, "Error: no such command 'doctor'", "Failed")
    result = cluster.run("doctor", "-o", "json")
    assert rows(result)["node", "b"] == "unknown"
    assert rows(result)["kernel", "a"] == "ok"
    assert "no such command" in result.stdout
    assert not [p for p in cluster.kube.all("pods") if probes.LABEL in p["metadata"]["labels"]]


def test_a_kubernetes_without_drystone_is_looked_at_before_anything_is_installed(world):
    world.kube.objects.clear()
    world.kube.put("namespaces", {"metadata": {"name": NAMESPACE}})
    world.kube.put("nodes", node("a", "10.0.0.1"))
    found = rows(world.run("doctor", "-o", "json"))
    assert found["StorageCluster", ""] == "warning"
    assert found["privileges", ""] == "warning"
    assert found["node", "a"] == "unknown", "without an image no pod can be made"
    end_pods(world.kube, answer())
    found = rows(world.run("doctor", "--image", "drystone:2", "-o", "json"))
    assert found["kernel", "a"] == "ok"


def test_the_pod_for_a_node_ends_by_itself_and_changes_nothing():
    ask = Ask(NAMESPACE, "/var/lib/kubelet", "drystone:1", ("secret",), {"a": ("b:1",)}, ("dns",))
    spec = pod(ask, KubeNode("a", ready=True, address="10.0.0.1"), "run")["spec"]
    assert spec["activeDeadlineSeconds"] == probes.POD_S
    assert spec["nodeName"] == "a"
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    assert container["args"][:2] == ["doctor", "--node"]
    assert "--no-ports" not in container["args"]


def test_each_node_looks_at_the_next_ones_and_is_looked_at():
    nodes = [KubeNode(name, ready=name != "d", address=f"10.0.0.{n}") for n, name in
             enumerate("abcdef")]  # fmt: skip
    found = kube_command.peers(nodes, {"10.0.0.1": (8470, 8471)})
    assert found["a"] == ("10.0.0.1:8470,8471", "10.0.0.2", "10.0.0.4")
    assert "d" not in found
    looked_at = {peer.partition(":")[0] for peers in found.values() for peer in peers}
    assert looked_at == {n.address for n in nodes if n.ready}
    assert kube_command.peers(nodes[:1], {}) == {"a": ()}


def test_the_clock_of_a_node_is_known_as_well_as_the_look_was_quick():
    looked = parsed(answer(clock=100.0), 90.0, 102.0, "a")
    assert looked.clock is not None
    assert (looked.clock.low, looked.clock.high) == (-2.0, 10.0)
    assert parsed(answer(), 0, 1, "a").clock is None
    for text in ("", "{}", '{"facts": 3}', "no { json }"):
        with pytest.raises(DataError):
            parsed(text, 0, 1, "a")


def test_the_table_begins_with_what_is_worst(cluster):
    end_pods(cluster.kube, answer())
    lines = cluster.run("doctor").stdout.splitlines()
    results = [w for line in lines for w in line.split() if w in ("problem", "warning", "ok")]
    assert results.index("problem") < results.index("warning") < results.index("ok")
