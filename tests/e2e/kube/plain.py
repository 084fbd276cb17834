"""End to end without the operator: claim, pod, write, read elsewhere, and nothing left behind."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from tests.e2e.kube import cluster, manifests, node, usage
from tests.e2e.kube.kubectl import Kubectl, Object, rolled_out
from tests.e2e.kube.manifests import CLUSTER, DRIVER, NAMESPACE, REST
from tests.e2e.kube.rest import Manager
from tests.e2e.kube.settings import Lab, node_name
from tests.e2e.kube.shell import Steps
from tests.e2e.lib.waits import wait_for

ARCHIVE: Final = node.ROOT / "dist" / "drystone-image.tar"
ROLES: Final = ("admin", "operate", "read")
WAIT_S: Final = 180.0
TOPOLOGY: Final = "topology.drystone.io/cluster"


def archive() -> Path:
    """The image to test."""
    return Path(os.environ.get("DRYSTONE_IMAGE_ARCHIVE", ARCHIVE))


def run(lab: Lab, steps: Steps) -> int:
    """All of it, which is one scenario; an error says what did not come."""
    kubectl = Kubectl(lab)
    cluster.load(lab, archive(), steps)
    manager = _start(lab, kubectl, steps)
    usage.write_here_read_there(lab, kubectl, steps)
    usage.leaves_nothing(lab, kubectl, lambda: len(manager.get("/v1/volumes")["items"]), steps)
    _remove(kubectl, steps)
    return 1


def _start(lab: Lab, kubectl: Kubectl, steps: Steps) -> Manager:
    tokens = {role: secrets.token_urlsafe(32) for role in ROLES}
    kubectl.apply(manifests.foundation(tokens))
    _rolled_out(kubectl, "deployment", "manager")
    pod = kubectl.items("pod", NAMESPACE, f"app={CLUSTER}-manager")[0]
    manager = Manager(f"http://{pod['status']['podIP']}:{REST}", tokens["admin"])
    steps.say("manager runs")
    kubectl.apply([manifests.secret("join", _join_tokens(lab, manager))])
    kubectl.apply([*manifests.daemons(), *manifests.csi()])
    for name in ("server", "block"):
        _rolled_out(kubectl, "daemonset", name)
    steps.say("servers and block daemons run")
    wait_for(lambda: _drives_up(manager) == lab.node_count, "every drive to be up", WAIT_S)
    manager.post("/v1/pools", {"name": "default", "copies": min(3, lab.node_count)})
    wait_for(lambda: manager.get("/v1/status")["health"] == "ok", "a healthy cluster", WAIT_S)
    steps.say("drives formatted, pool in sync")
    _rolled_out(kubectl, "deployment", "csi-controller")
    _rolled_out(kubectl, "daemonset", "csi-node")
    for number in lab.numbers():
        kubectl.wait("csinode", node_name(number), _registered, f"{DRIVER} registered",
                     deadline_s=WAIT_S)  # fmt: skip
    steps.say("CSI driver registered on every node")
    return manager


def _remove(kubectl: Kubectl, steps: Steps) -> None:
    kubectl.delete("namespace", NAMESPACE)
    for kind, name in (
        ("clusterrolebinding", f"drystone-{CLUSTER}"),
        ("csidriver", DRIVER),
        ("storageclass", manifests.STORAGE_CLASS),
    ):
        kubectl.delete(kind, name)
    kubectl.wait_gone("namespace", NAMESPACE, deadline_s=WAIT_S)
    # Kubelet never takes it away, and would refuse the driver of the next cluster.
    kubectl.run("label", "nodes", "--all", f"{TOPOLOGY}-")
    steps.say("removed")


def _join_tokens(lab: Lab, manager: Manager) -> dict[str, str]:
    found = {}
    for number in lab.numbers():
        name = node_name(number)
        for kind, role, process in (
            ("server", "server", name),
            ("block", "client", f"block-{name}"),
        ):
            answer = manager.post("/v1/join-tokens", {"role": role, "name": process})
            found[f"{kind}.{name}"] = answer["token"] + "\n"
    return found


def _rolled_out(kubectl: Kubectl, kind: str, name: str) -> None:
    kubectl.wait(kind, f"{CLUSTER}-{name}", rolled_out, "rolled out", namespace=NAMESPACE,
                 deadline_s=WAIT_S)  # fmt: skip


def _drives_up(manager: Manager) -> int:
    return sum(1 for drive in manager.get("/v1/drives")["items"] if drive["state"] == "up")


def _registered(found: Object) -> bool:
    return any(driver["name"] == DRIVER for driver in found["spec"].get("drivers") or ())
