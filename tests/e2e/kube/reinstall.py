"""The chart goes and comes back under a pod that writes; then the whole namespace does."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from tests.e2e.kube import chart
from tests.e2e.kube.chart import CLUSTER, NAMESPACE, wait_whole
from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.ledger import Ledger
from tests.e2e.kube.run import Run
from tests.e2e.kube.settings import LabError
from tests.e2e.lib.waits import wait_for

WAIT_S: Final = 300.0
KEYS: Final = ("master", "tokens")
HELD: Final = ("storagecluster", "storagepool", "pod")


def reinstall(run: Run) -> None:
    """As docs/kubernetes.md says, "Taking it away, and getting it back"."""
    ledger = Ledger(run.lab, run.kubectl)
    ledger.start()
    chart.uninstall(run.lab)
    ledger.wait_writing()
    run.steps.say("chart uninstalled: the writer goes on")
    chart.install(run.lab)
    wait_whole(run.kubectl)
    ledger.wait_writing()
    chart.helm_test(run.lab)
    run.steps.say("chart installed again: it found everything, `helm test` passes")
    ledger.pause()
    wait_for(lambda: not run.kubectl.items("volumeattachment"), "nothing attached", WAIT_S, 0.5)
    keys = [_key(run.kubectl, f"{CLUSTER}-{part}") for part in KEYS]
    _delete_namespace(run.kubectl)
    run.steps.say("namespace deleted, with the keys saved before")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    run.kubectl.apply([namespace, *keys])
    chart.install(run.lab)
    run.kubectl.apply([chart.storage_cluster(min(3, run.lab.node_count))])
    wait_whole(run.kubectl)
    ledger.resume()
    ledger.stop()
    run.steps.say("chart, keys and StorageCluster are back: the data is as it was")


def _key(kubectl: Kubectl, name: str) -> dict[str, Any]:
    """A Secret as a person saves it."""
    found = kubectl.get("secret", name, NAMESPACE)
    if found is None:
        raise LabError(f"there is no Secret {name}")
    metadata = {"name": name, "namespace": NAMESPACE, "labels": found["metadata"].get("labels", {})}
    return {
        "apiVersion": "v1", "kind": "Secret", "type": found["type"], "metadata": metadata,
        "data": found["data"],
    }  # fmt: skip


def _delete_namespace(kubectl: Kubectl) -> None:
    """With everything in it; what an operator that went first still held is let go by hand."""
    kubectl.delete("namespace", NAMESPACE)

    def gone() -> bool:
        if kubectl.get("namespace", NAMESPACE) is None:
            return True
        # Of the pods only guards have a finalizer; the others end by themselves.
        if all(pod["metadata"].get("finalizers") for pod in kubectl.items("pod", NAMESPACE)):
            _release(kubectl)
        return False

    wait_for(gone, "the namespace to be gone", WAIT_S, 1.0)


def _release(kubectl: Kubectl) -> None:
    for kind in HELD:
        for found in kubectl.items(kind, NAMESPACE):
            with contextlib.suppress(LabError):  # gone meanwhile
                kubectl.run(
                    "patch", kind, found["metadata"]["name"], "-n", NAMESPACE, "--type=merge",
                    "-p", '{"metadata":{"finalizers":null}}',
                )  # fmt: skip
