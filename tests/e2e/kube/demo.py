"""`make kube-demo`: the lab with Drystone installed, left running, and a tour to follow."""

from __future__ import annotations

import json
from typing import Any, Final

from tests.e2e.kube import cluster, manifests, operated
from tests.e2e.kube.chart import CLUSTER, NAMESPACE
from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.node import ROOT
from tests.e2e.kube.settings import Lab, node_name
from tests.e2e.kube.shell import Steps

FILE: Final = "tour.json"
NAME: Final = "notes"
WRITE: Final = "while date >> /data/log && sync; do sleep 1; done"

# A command, and what is to be seen then. The words in braces are filled in by `tour`.
STOPS: Final = (
    (
        "kubectl get dsc,dsn,dsd,dsp -n {namespace}",
        "a cluster (HEALTH ok), {nodes} nodes, as many disks (STATE Up), a pool; READY True",
    ),
    (
        "kubectl drystone status -n {namespace}",
        "placement groups: 64 of 64 in sync; drives and nodes are up",
    ),
    (
        "kubectl apply -f {file}; kubectl rollout status deploy/{name}; kubectl get pvc,pod",
        "claim {name} is Bound in a second, its pod Running on {victim} in about five",
    ),
    (
        "kubectl exec deploy/{name} -- tail -n 3 /data/log",
        "the time, once a second, each line synced to {copies} nodes",
    ),
    (
        "kubectl drystone volume list -n {namespace}",
        "one volume, ATTACHED block-{victim}",
    ),
    (
        "scripts/kube.sh kill {number}; kubectl get pod -o wide -w",
        "a power cut. {victim} is fenced, and the pod Running elsewhere, within 30 s",
    ),
    (
        "kubectl exec deploy/{name} -- tail -n 40 /data/log",
        "no line is missing; the gap in the times is the fail-over",
    ),
    (
        "kubectl describe dsn {victim} -n {namespace}",
        "condition Fenced: what was proven and done, in a sentence; the same as events",
    ),
    (
        "scripts/kube.sh start {number}; kubectl get dsc -n {namespace} -w",
        "power on. HEALTH is ok once {victim} has the changes that it missed; nobody helps",
    ),
    (
        "kubectl drain {other} --ignore-daemonsets --delete-emptydir-data",
        "refused until all copies are in sync elsewhere, then done. Then: kubectl uncordon {other}",
    ),
    (
        "kubectl delete -f {file}",
        "pod, claim and volume go; `kubectl get pv` shows nothing of csi.drystone.io",
    ),
)


def run(lab: Lab, steps: Steps) -> None:
    """Start what is not there yet, and say how to look at it."""
    cluster.up(lab, steps)
    if Kubectl(lab).try_run("get", "storagecluster", CLUSTER, "-n", NAMESPACE) is None:
        operated.some(lab, steps, ())
    else:
        steps.say("Drystone is installed already")
    path = lab.folder / FILE
    path.write_text(json.dumps(objects(lab), indent=1) + "\n")
    print(tour(lab))


def objects(lab: Lab) -> dict[str, Any]:
    """A claim and a pod that writes, as one list; the pod is rather on the last node."""
    deployment = manifests.deployment(NAME, node_name(lab.node_count))
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    container["command"] = ["/usr/bin/tini", "--", "sh", "-c", WRITE]
    items = [manifests.claim(NAME, "1Gi"), deployment]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def tour(lab: Lab) -> str:
    """What to type, in order, and what to see."""
    words = {
        "namespace": NAMESPACE,
        "name": NAME,
        "file": str(lab.folder / FILE),
        "nodes": str(lab.node_count),
        "copies": str(min(3, lab.node_count)),
        "number": str(lab.node_count),
        "victim": node_name(lab.node_count),
        "other": node_name(max(1, lab.node_count - 1)),
    }
    lines = [
        "",
        f"cd {ROOT}",
        f"export KUBECONFIG={lab.kubeconfig} PATH={lab.bin}:$PWD/.venv/bin:$PATH",
    ]
    for number, (command, seen) in enumerate(STOPS, 1):
        lines += ["", f"{number:2}. {command.format(**words)}", f"    # {seen.format(**words)}"]
    return "\n".join([*lines, "", "    make kube-down    # takes everything away", ""])
