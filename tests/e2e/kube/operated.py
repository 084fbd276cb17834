"""End to end as a user installs it: chart, StorageCluster, volumes, a node that dies, removal."""

from __future__ import annotations

import time
from typing import Any, Final

from tests.e2e.kube import chart, cluster, manifests, node, usage
from tests.e2e.kube.chart import CLUSTER, NAMESPACE
from tests.e2e.kube.kubectl import Kubectl, node_ready, rolled_out
from tests.e2e.kube.plain import archive
from tests.e2e.kube.settings import Lab, LabError, node_name
from tests.e2e.kube.shell import Steps
from tests.e2e.lib.waits import wait_for

WAIT_S: Final = 300.0
SPARED: Final = {"operator", "manager", "csi-controller", "etcd"}
LEDGER: Final = "ledger"


def run(lab: Lab, steps: Steps) -> None:
    """All of it; an error says what did not come."""
    kubectl = Kubectl(lab)
    cluster.load(lab, archive(), steps)
    chart.make_disks(lab)
    chart.install(lab)
    steps.say("chart installed")
    kubectl.apply([chart.storage_cluster(min(3, lab.node_count))])
    _wait_ready(kubectl)
    steps.say("StorageCluster is ready")
    usage.write_here_read_there(lab, kubectl, steps)
    usage.leaves_nothing(lab, kubectl, lambda: _volumes(kubectl), steps)
    lose_a_node(lab, kubectl, steps)
    _remove(lab, kubectl, steps)


def lose_a_node(lab: Lab, kubectl: Kubectl, steps: Steps) -> None:
    """Power cut under a pod that writes: it must run elsewhere with everything it had synced."""
    victim = next(n for n in reversed(lab.numbers()) if not chart.pods_on(kubectl, n) & SPARED)
    kubectl.apply([manifests.claim(LEDGER, "1Gi"), manifests.deployment(LEDGER, node_name(victim))])
    kubectl.wait("deployment", LEDGER, rolled_out, "rolled out", deadline_s=WAIT_S)
    digest = kubectl.execute(_pod(kubectl, node_name(victim)), "sh", "-c", usage.WRITE)
    steps.say(f"power cut of {node_name(victim)}, with a pod that has written and synced")
    cut = time.monotonic()
    node.kill(lab, victim)
    name = wait_for(
        lambda: _elsewhere(kubectl, node_name(victim)), "the pod elsewhere", WAIT_S, 0.3
    )
    steps.say(f"the pod runs elsewhere {time.monotonic() - cut:.1f} s after the cut")
    if kubectl.execute(name, "sh", "-c", "sha256sum < /data/file") != digest:
        raise LabError("the pod reads other bytes than it had synced")
    node.start(lab, victim)
    kubectl.wait("node", node_name(victim), _clean, "Ready and without taints", deadline_s=WAIT_S)
    _wait_ready(kubectl)
    steps.say(f"{node_name(victim)} is back, everything in sync")
    kubectl.delete("deployment", LEDGER)
    kubectl.delete("pvc", LEDGER)
    kubectl.wait_gone("pvc", LEDGER, deadline_s=WAIT_S)
    wait_for(lambda: _volumes(kubectl) == 0, "no volume left", WAIT_S, 1.0)


def _remove(lab: Lab, kubectl: Kubectl, steps: Steps) -> None:
    kubectl.delete("storagecluster", CLUSTER, NAMESPACE)
    kubectl.wait_gone("storagecluster", CLUSTER, NAMESPACE, deadline_s=WAIT_S)
    steps.say("StorageCluster deleted")
    chart.uninstall(lab)
    kubectl.delete("namespace", NAMESPACE)
    kubectl.wait_gone("namespace", NAMESPACE, deadline_s=WAIT_S)
    steps.say("chart removed")


def _wait_ready(kubectl: Kubectl) -> None:
    kubectl.wait("storagecluster", CLUSTER, chart.is_ready, "Ready", namespace=NAMESPACE,
                 deadline_s=WAIT_S)  # fmt: skip


def _volumes(kubectl: Kubectl) -> int:
    found = kubectl.get("storagecluster", CLUSTER, NAMESPACE) or {}
    return int(found.get("status", {}).get("volumes", -1))


def _pod(kubectl: Kubectl, where: str) -> str:
    pods = kubectl.items("pod", "default", f"app={LEDGER}")
    return next(p["metadata"]["name"] for p in pods if p["spec"].get("nodeName") == where)


def _elsewhere(kubectl: Kubectl, lost: str) -> str:
    for pod in kubectl.items("pod", "default", f"app={LEDGER}"):
        if pod["spec"].get("nodeName") not in (None, lost) and usage.running(pod):
            return str(pod["metadata"]["name"])
    return ""


def _clean(found: dict[str, Any]) -> bool:
    return node_ready(found) and not found["spec"].get("taints")
