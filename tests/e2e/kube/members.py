"""A member of the operator's etcd loses its data for good, and is replaced as the runbook says."""

from __future__ import annotations

import shutil
from typing import Any, Final

from tests.e2e.kube.chart import CLUSTER, NAMESPACE, wait_whole
from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.ledger import Ledger
from tests.e2e.kube.run import Run
from tests.e2e.kube.settings import LabError, node_name
from tests.e2e.kube.usage import running
from tests.e2e.lib.waits import wait_for

WAIT_S: Final = 300.0
ALIVE: Final = f"{CLUSTER}-etcd-0"
LOST: Final = f"{CLUSTER}-etcd-1"
PEER: Final = f"http://{LOST}.{CLUSTER}-etcd.{NAMESPACE}.svc:2380"


def lose_and_replace(run: Run) -> None:
    """The steps of docs/operator.md, "A member of etcd is lost", with a pod that writes."""
    kubectl, ledger = run.kubectl, Ledger(run.lab, run.kubectl)
    ledger.start(node=node_name(1))
    before = kubectl.get("pod", LOST, NAMESPACE) or {}
    where = next(n for n in run.lab.numbers() if node_name(n) == before["spec"]["nodeName"])
    shutil.rmtree(run.lab.node(where) / "drystone" / CLUSTER / "etcd-1")
    run.steps.say(f"the folder of {LOST} on {node_name(where)} is gone")
    _etcdctl(kubectl, "member", "remove", _member(kubectl))
    # Refused for seconds after a removal: etcd wants to see that its members are well.
    wait_for(
        lambda: _tried(kubectl, "member", "add", LOST, f"--peer-urls={PEER}"),
        "etcd to take the new member", WAIT_S, 1.0,
    )  # fmt: skip
    kubectl.run("delete", "pv", f"{NAMESPACE}-{LOST}", "--wait=false")
    kubectl.run("delete", "pvc", f"state-{LOST}", "-n", NAMESPACE, "--wait=false")
    kubectl.delete("pod", LOST, NAMESPACE)
    wait_for(lambda: _replaced(kubectl, before), "the new member's pod", WAIT_S, 0.5)
    wait_for(
        lambda: _tried(kubectl, "endpoint", "health", "--cluster"), "a healthy etcd", WAIT_S, 1.0
    )
    if _etcdctl(kubectl, "member", "list").count("started") != len(_etcds(kubectl)):
        raise LabError("not every member of etcd has started")
    wait_whole(kubectl)
    ledger.wait_writing()
    ledger.stop()
    run.steps.say("a new member without data took its place; the writer went on")


def _etcds(kubectl: Kubectl) -> list[dict[str, Any]]:
    return kubectl.items("pod", NAMESPACE, "app.kubernetes.io/component=etcd")


def _replaced(kubectl: Kubectl, before: dict[str, Any]) -> bool:
    now = kubectl.get("pod", LOST, NAMESPACE)
    return bool(now and now["metadata"]["uid"] != before["metadata"]["uid"] and running(now))


def _member(kubectl: Kubectl) -> str:
    """The id of the member that was lost."""
    lines = _etcdctl(kubectl, "member", "list").splitlines()
    return next(line for line in lines if f" {LOST}," in line).partition(",")[0]


def _etcdctl(kubectl: Kubectl, *words: str) -> str:
    return kubectl.execute(ALIVE, "etcdctl", *words, namespace=NAMESPACE)


def _tried(kubectl: Kubectl, *words: str) -> bool:
    try:
        _etcdctl(kubectl, *words)
    except LabError:
        return False
    return True
