"""What to show when a run failed: the lab is about to be taken away, and its logs with it."""

from __future__ import annotations

import sys
from typing import Final

from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.settings import Lab

LOG_LINES: Final = "15"


def show(lab: Lab) -> None:
    """Pods, the latest events, and the last words of containers that are not well."""
    kubectl = Kubectl(lab)
    looks = (
        ("get", "pods", "-A", "-o", "wide"),
        ("get", "pvc,pv,volumeattachment", "-A"),
        ("get", "events", "-A", "--field-selector=type=Warning", "--sort-by=.lastTimestamp"),
    )
    for words in looks:
        _print(" ".join(words), kubectl.try_run(*words))
    for pod in kubectl.items("pod"):
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        for container in pod.get("status", {}).get("containerStatuses", ()):
            if not container.get("ready") or container.get("restartCount"):
                log = ["logs", name, "-n", namespace, "-c", container["name"]]
                log += ["--tail", LOG_LINES]
                _print(" ".join(log), kubectl.try_run(*log))
                if container.get("restartCount"):
                    _print("its last run", kubectl.try_run(*log, "--previous"))


def _print(title: str, text: str | None) -> None:
    print(f"-- {title}\n{text or 'nothing'}", file=sys.stderr)
