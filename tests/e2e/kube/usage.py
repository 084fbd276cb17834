"""What a user of volumes does, however the cluster was installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from tests.e2e.kube import loops, manifests
from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.settings import Lab, LabError, node_name
from tests.e2e.kube.shell import Steps
from tests.e2e.lib.waits import wait_for

MIB_WRITTEN: Final = 64
WAIT_S: Final = 180.0
WRITE: Final = f"head -c {MIB_WRITTEN}M /dev/urandom > /data/file && sync && sha256sum < /data/file"


def write_here_read_there(lab: Lab, kubectl: Kubectl, steps: Steps) -> None:
    """Write on one node, read on another."""
    kubectl.apply([manifests.claim("notes", "1Gi")])
    digest = ""
    for number in (lab.node_count, 1):
        name = f"user-{number}"
        kubectl.apply([manifests.user(name, "notes", node_name(number))])
        kubectl.wait("pod", name, running, "to run", deadline_s=WAIT_S)
        steps.say(f"pod with the volume runs on {node_name(number)}")
        if not digest:
            digest = kubectl.execute(name, "sh", "-c", WRITE)
            steps.say(f"{MIB_WRITTEN} MiB written and synced")
        elif kubectl.execute(name, "sh", "-c", "sha256sum < /data/file") != digest:
            raise LabError(f"{node_name(number)} reads other bytes than were written")
        kubectl.delete("pod", name)
        kubectl.wait_gone("pod", name, deadline_s=WAIT_S)
    steps.say("another node read the same bytes")


def leaves_nothing(lab: Lab, kubectl: Kubectl, volumes: Callable[[], int], steps: Steps) -> None:
    """Delete the claim, and see everything go that it brought; ``volumes`` counts the cluster's."""
    kubectl.delete("pvc", "notes")
    kubectl.wait_gone("pvc", "notes", deadline_s=WAIT_S)
    wait_for(lambda: not _ours(kubectl), "no PersistentVolume of the driver left", WAIT_S)
    wait_for(lambda: not kubectl.items("volumeattachment"), "no VolumeAttachment left", WAIT_S)
    wait_for(lambda: volumes() == 0, "no volume left", WAIT_S)
    devices = [name for number in lab.numbers() for name in loops.noted(lab.node(number))]
    if devices:
        raise LabError(f"devices are left: {', '.join(devices)}")
    steps.say("claim deleted: no volume, attachment or device is left")


def _ours(kubectl: Kubectl) -> list[dict[str, Any]]:
    found = kubectl.items("persistentvolume")
    return [v for v in found if v["spec"].get("csi", {}).get("driver") == manifests.DRIVER]


def running(found: dict[str, Any]) -> bool:
    """Whether a pod runs and is ready."""
    status = found["status"]
    ready = [container.get("ready") for container in status.get("containerStatuses", ())]
    return bool(status["phase"] == "Running" and ready and all(ready))
