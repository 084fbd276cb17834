"""A StatefulSet of one pod that writes for ever, and what it says of it, from outside."""

from __future__ import annotations

import json
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.e2e.kube import manifests
from tests.e2e.kube.kubectl import Kubectl
from tests.e2e.kube.settings import Lab, LabError
from tests.e2e.lib.waits import wait_for

SOURCE: Final = Path(__file__).with_name("ledger_writer.py")
MOUNT: Final = "/data"
DEVICE: Final = "/dev/ledger"
AGAIN_S: Final = 0.3  # between two looks for a pod whose output can be followed
RUNS_S: Final = 180.0


@dataclass(slots=True)
class Said:
    """What all pods of a ledger printed, as far as it was seen."""

    acknowledged: int = 0
    longest_s: float = 0.0
    errors: list[str] = field(default_factory=list)
    writers: set[str] = field(default_factory=set)

    def take(self, line: dict[str, Any]) -> None:
        """Take a line; whatever breaks a promise becomes an error."""
        event, last = line["event"], int(line.get("last", 0))
        if event == "found":
            if line["writer"] in self.writers:
                return  # the output of a pod is read from its beginning again where it broke off
            self.writers.add(str(line["writer"]))
            if last < self.acknowledged:
                self.errors.append(f"{self.acknowledged} was acknowledged, {last} is there")
            if line["damaged"]:
                self.errors.append(f"{line['damaged']} records before {last} are not as written")
        elif event == "error":
            self.errors.append(f"record {line['number']}: errno {line['errno']}")
        else:
            self.acknowledged = max(self.acknowledged, last)
            self.longest_s = max(self.longest_s, float(line["longest_s"]))
            if line.get("foreign"):
                self.errors.append(f"{line['foreign']} records were written by somebody else")


class Ledger:
    """One of them, followed from its start to ``stop``."""

    def __init__(self, lab: Lab, kubectl: Kubectl, name: str = "ledger") -> None:
        self._kubectl, self._name, self.pod = kubectl, name, f"{name}-0"
        self._argv = [lab.program("kubectl"), f"--kubeconfig={lab.kubeconfig}", "logs", "-f"]
        self.said = Said()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def start(self, *, node: str = "", block: bool = False) -> None:
        """Apply it, rather on a node, and wait until it writes."""
        self._kubectl.apply(objects(self._name, node=node, block=block))
        self._thread.start()
        self.wait_writing()

    def wait_writing(self, deadline_s: float = RUNS_S) -> None:
        """Wait until more was acknowledged than now."""
        before = self.said.acknowledged
        wait_for(lambda: self.said.acknowledged > before or self.said.errors,
                 f"{self.pod} to write", deadline_s)  # fmt: skip
        self.check()

    def check(self) -> None:
        """Raise if anything was not as promised."""
        if self.said.errors:
            raise LabError(f"{self.pod}: {'; '.join(self.said.errors[:5])}")

    def node(self) -> str:
        """Where its pod is; empty when it is nowhere."""
        found = self._kubectl.get("pod", self.pod)
        return str((found or {}).get("spec", {}).get("nodeName", ""))

    def pause(self) -> None:
        """End its pod; the volume stays."""
        self._kubectl.run("scale", "statefulset", self._name, "--replicas=0")
        self._kubectl.wait_gone("pod", self.pod, deadline_s=RUNS_S)
        self.check()

    def resume(self) -> None:
        """Start it again on the same volume."""
        self._kubectl.run("scale", "statefulset", self._name, "--replicas=1")
        self.wait_writing()

    def stop(self) -> Said:
        """Delete it with its claim, wait for its last words, and give all of them."""
        self.pause()
        self._end()
        self.check()
        for kind, name in (
            ("statefulset", self._name), ("service", self._name), ("configmap", self._name),
            ("pvc", f"data-{self.pod}"),
        ):  # fmt: skip
            self._kubectl.delete(kind, name)
        self._kubectl.wait_gone("pvc", f"data-{self.pod}", deadline_s=RUNS_S)
        return self.said

    def _end(self) -> None:
        self._ended.set()
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
        self._thread.join(RUNS_S)

    def _follow(self) -> None:
        while not self._ended.is_set():
            with subprocess.Popen(
                [*self._argv, self.pod], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                text=True,
            ) as process:  # fmt: skip
                self._process = process
                for line in process.stdout or ():
                    self._take(line)
            self._ended.wait(AGAIN_S)

    def _take(self, line: str) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            return  # a line cut off, or of kubectl
        with self._lock:
            self.said.take(found)


def objects(name: str, *, node: str = "", block: bool = False) -> list[dict[str, Any]]:
    """StatefulSet, the service that it needs, and the program."""
    container: dict[str, Any] = {
        "name": "ledger",
        "image": manifests.IMAGE,
        "command": ["/usr/bin/tini", "--", "python3", "/program/ledger_writer.py"],
        "args": [DEVICE if block else f"{MOUNT}/records"],
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [{"name": "program", "mountPath": "/program"}],
    }
    if block:
        container["volumeDevices"] = [{"name": "data", "devicePath": DEVICE}]
    else:
        container["volumeMounts"].append({"name": "data", "mountPath": MOUNT})
    pod: dict[str, Any] = {
        "containers": [container],
        "terminationGracePeriodSeconds": 20,
        "volumes": [{"name": "program", "configMap": {"name": name}}],
    }
    if node:
        pod["affinity"] = manifests.rather_on(node)
    claim = manifests.claim("data", "1Gi", block=block)
    claim["metadata"] = {"name": "data"}
    return [
        {**manifests.object_("v1", "ConfigMap", name, "default"),
         "data": {SOURCE.name: SOURCE.read_text()}},
        {**manifests.object_("v1", "Service", name, "default"),
         "spec": {"clusterIP": "None", "selector": {"app": name}}},
        {**manifests.object_("apps/v1", "StatefulSet", name, "default"),
         "spec": {"serviceName": name, "replicas": 1, "selector": {"matchLabels": {"app": name}},
                  "template": {"metadata": {"labels": {"app": name}}, "spec": pod},
                  "volumeClaimTemplates": [claim]}},
    ]  # fmt: skip
