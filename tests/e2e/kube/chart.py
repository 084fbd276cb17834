"""The chart as the tests install it: our image, and the lab's own in place of a registry's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tests.e2e.kube import images
from tests.e2e.kube.kubectl import Kubectl, rolled_out
from tests.e2e.kube.node import ROOT
from tests.e2e.kube.settings import Lab
from tests.e2e.kube.shell import run
from tests.e2e.lib.waits import wait_for

CHART: Final = ROOT / "charts" / "drystone"
RELEASE: Final = "drystone"
NAMESPACE: Final = "drystone"
CLUSTER: Final = "main"  # "lab" is the plain one: state of another cluster is refused
HELM_S: Final = 300.0
WHOLE_S: Final = 300.0  # a node that comes back copies what it missed
DISKS: Final = "/var/lib/drystone-disks"
DISK_BYTES: Final = 4 << 30  # sparse: what is not written costs nothing


def values() -> dict[str, Any]:
    """What differs from the defaults."""
    return {
        "image": {"repository": "localhost/drystone", "tag": "dev", "pullPolicy": "Never"},
        "images": {
            "provisioner": images.name("csi-provisioner"),
            "attacher": images.name("csi-attacher"),
            "resizer": images.name("csi-resizer"),
            "snapshotter": images.name("csi-snapshotter"),
            "registrar": images.name("csi-node-driver-registrar"),
            "livenessprobe": images.name("livenessprobe"),
            "etcd": images.name("etcd"),
        },
    }


def storage_cluster(copies: int) -> dict[str, Any]:
    """A small cluster that takes every blank file of a folder as a disk."""
    return {
        "apiVersion": "drystone.io/v1alpha1",
        "kind": "StorageCluster",
        "metadata": {"name": CLUSTER, "namespace": NAMESPACE},
        "spec": {
            "metadata": {"type": "etcd", "etcd": {"managed": {"replicas": 3}}},
            "disks": {
                "selector": {"classes": ["file"]}, "autoAdopt": "Blank", "folders": [DISKS],
            },
            "defaultPool": {"copies": copies},
            "failover": {"silenceSeconds": 5},
        },
    }  # fmt: skip


def make_disks(lab: Lab) -> None:
    """A blank disk, a file, on every node that has none: a replaced one must not come back."""
    for number in lab.numbers():
        if not list((lab.node(number) / "disks").glob("*.img")):
            make_disk(lab, number)


def make_disk(lab: Lab, number: int, which: int = 1) -> Path:
    """A blank one on one node, where it is not there yet: one that is in use is not blank."""
    folder = lab.node(number) / "disks"
    folder.mkdir(parents=True, exist_ok=True)
    disk = folder / f"disk-{which}.img"
    if not disk.exists():
        with disk.open("wb") as file:
            file.truncate(DISK_BYTES)
    return disk


def install(lab: Lab, changed: dict[str, Any] | None = None) -> None:
    """Install, and wait until helm says that everything runs. ``changed``: not the lab's values."""
    path = lab.folder / "values.json"
    path.write_text(json.dumps(values() if changed is None else changed))
    _helm(lab, "upgrade", "--install", RELEASE, str(CHART), "--create-namespace",
          "--values", str(path), "--wait", "--timeout", f"{HELM_S:.0f}s")  # fmt: skip


def uninstall(lab: Lab) -> None:
    """Remove the release."""
    _helm(lab, "uninstall", RELEASE, "--wait", "--timeout", f"{HELM_S:.0f}s")


def helm_test(lab: Lab) -> None:
    """The test that the chart brings."""
    _helm(lab, "test", RELEASE, "--timeout", f"{HELM_S:.0f}s")


def condition(found: dict[str, Any], kind: str) -> str:
    """Status of a condition; Unknown when it is not there."""
    return condition_field(found, kind, "status") or "Unknown"


def condition_field(found: dict[str, Any], kind: str, field: str) -> str:
    """Status, reason or message of a condition; empty when it is not there."""
    for each in found.get("status", {}).get("conditions", ()):
        if each["type"] == kind:
            return str(each.get(field, ""))
    return ""


def is_ready(found: dict[str, Any]) -> bool:
    """Whether a StorageCluster is ready, at the spec that it has now."""
    observed = found.get("status", {}).get("observedGeneration", 0)
    return observed >= found["metadata"]["generation"] and condition(found, "Ready") == "True"


def whole(kubectl: Kubectl) -> bool:
    """Whether everything that we run is up and every copy in sync."""
    cluster = kubectl.get("storagecluster", CLUSTER, NAMESPACE) or {}
    health = cluster.get("status", {}).get("health", {}).get("severity")
    return is_ready(cluster) and health == "ok" and all(
        rolled_out(found)
        for kind in ("daemonset", "statefulset", "deployment")
        for found in kubectl.items(kind, NAMESPACE)
        if kind != "daemonset" or found["spec"]["updateStrategy"]["type"] != "OnDelete"
    )  # fmt: skip


def wait_whole(kubectl: Kubectl, deadline_s: float = WHOLE_S) -> None:
    """Wait until everything is up and in sync."""
    wait_for(lambda: whole(kubectl), "everything to be up and in sync", deadline_s, 0.5)


def _helm(lab: Lab, *words: str) -> str:
    argv = [lab.program("helm"), f"--kubeconfig={lab.kubeconfig}", "--namespace", NAMESPACE]
    return run([*argv, *words], timeout_s=HELM_S + 30)
