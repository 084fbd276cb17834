"""A pod writes without a pause while everything beneath it is restarted, piece by piece."""

from __future__ import annotations

from typing import Any, Final

from tests.e2e.kube import manifests
from tests.e2e.kube.chart import CLUSTER, NAMESPACE, wait_whole
from tests.e2e.kube.kubectl import Kubectl, node_ready
from tests.e2e.kube.ledger import Ledger
from tests.e2e.kube.run import Run
from tests.e2e.kube.settings import node_name
from tests.e2e.kube.usage import running
from tests.e2e.lib.waits import wait_for

WAIT_S: Final = 300.0
COMPONENT: Final = "app.kubernetes.io/component"
DRAIN_S: Final = 240.0


def restarts(run: Run) -> None:
    """The node plugin, block, managers and etcd go, one after the other; then the operator."""
    kubectl, ledger = run.kubectl, Ledger(run.lab, run.kubectl)
    ledger.start()
    for component in ("csi-node", "block", "manager", "etcd"):
        where = "" if component in ("manager", "etcd") else ledger.node()
        _delete_pod(kubectl, component, where)
        ledger.wait_writing()
        wait_whole(kubectl)
        run.steps.say(f"{component}: pod deleted, the writer went on, a new pod took over")
    kubectl.run("scale", "deployment", "drystone-operator", "-n", NAMESPACE, "--replicas=0")
    _wait_no_pod(kubectl, "operator")
    kubectl.apply([manifests.claim("meanwhile", "64Mi"), manifests.user("meanwhile", "meanwhile",
                                                                       node_name(1))])  # fmt: skip
    kubectl.wait("pod", "meanwhile", running, "to run", deadline_s=WAIT_S)
    ledger.wait_writing()
    kubectl.run("scale", "deployment", "drystone-operator", "-n", NAMESPACE, "--replicas=1")
    kubectl.delete("pod", "meanwhile")
    kubectl.delete("pvc", "meanwhile")
    kubectl.wait_gone("pvc", "meanwhile", deadline_s=WAIT_S)
    wait_whole(kubectl)
    run.steps.say("without the operator volumes are made and used as before")
    run.figures.add("longest pause of a writer: restarts of csi, block, manager, etcd",
                    ledger.stop().longest_s, "s")  # fmt: skip


def rolling_update(run: Run) -> None:
    """The servers get a new shape while a pod writes."""
    kubectl, ledger = run.kubectl, Ledger(run.lab, run.kubectl)
    ledger.start()
    before = _pods(kubectl, "server")
    patch = '{"spec":{"placement":{"resources":{"server":{"requests":{"cpu":"101m"}}}}}}'
    kubectl.run("patch", "storagecluster", CLUSTER, "-n", NAMESPACE, "--type=merge", "-p", patch)
    wait_for(lambda: not before & _pods(kubectl, "server"), "new servers everywhere", WAIT_S, 0.5)
    wait_whole(kubectl)
    ledger.wait_writing()
    run.steps.say("servers were replaced one after the other, each when all copies were in sync")
    run.figures.add("longest pause of a writer: rolling update of servers",
                    ledger.stop().longest_s, "s", "goal 1 s")  # fmt: skip


def drains(run: Run) -> None:
    """Every node is drained in turn; the writer moves and loses nothing."""
    kubectl, ledger = run.kubectl, Ledger(run.lab, run.kubectl)
    ledger.start(node=node_name(1))
    for number in run.lab.numbers():
        name = node_name(number)
        kubectl.run("drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--force",
                    f"--timeout={DRAIN_S:.0f}s", timeout_s=DRAIN_S + 10)  # fmt: skip
        ledger.wait_writing()
        kubectl.run("uncordon", name)
        kubectl.wait("node", name, node_ready, "Ready", deadline_s=WAIT_S)
        wait_whole(kubectl)
        run.steps.say(f"{name} drained, with the writer going on, and back")
    said = ledger.stop()
    run.figures.add("drain of every node in turn: I/O errors", len(said.errors), "", "0")
    run.steps.say(f"{len(said.writers)} pods wrote one after the other, none lost a record")


def _of(kubectl: Kubectl, component: str) -> list[dict[str, Any]]:
    return kubectl.items("pod", NAMESPACE, f"{COMPONENT}={component}")


def _pods(kubectl: Kubectl, component: str) -> set[str]:
    return {pod["metadata"]["uid"] for pod in _of(kubectl, component)}


def _delete_pod(kubectl: Kubectl, component: str, node: str) -> None:
    """Delete one pod, on a node if one is named, and wait for the one in its place."""
    pods = _of(kubectl, component)
    pod = next(p for p in pods if not node or p["spec"].get("nodeName") == node)
    old, count = pod["metadata"]["uid"], len(pods)
    kubectl.delete("pod", pod["metadata"]["name"], NAMESPACE)

    def replaced() -> bool:
        now = _of(kubectl, component)
        ready = [p for p in now if running(p)]
        return len(ready) >= count and all(p["metadata"]["uid"] != old for p in now)

    wait_for(replaced, f"a new pod of {component}", WAIT_S, 0.5)


def _wait_no_pod(kubectl: Kubectl, component: str) -> None:
    wait_for(lambda: not _of(kubectl, component), f"{component} to be gone", WAIT_S, 0.5)
