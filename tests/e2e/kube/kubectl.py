"""kubectl with the lab's rights: objects go in and come out as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from tests.e2e.kube.settings import Lab, LabError
from tests.e2e.kube.shell import run
from tests.e2e.lib.waits import wait_for

CALL_S: Final = 120.0  # a machine with other work answers late, and nothing here judges that
POLL_S: Final = 0.3  # each look is a process of its own

Object = Mapping[str, Any]


class Kubectl:
    """One lab's API."""

    def __init__(self, lab: Lab) -> None:
        self._words = [lab.program("kubectl"), f"--kubeconfig={lab.kubeconfig}"]

    def run(self, *words: str, text: str | None = None, timeout_s: float = CALL_S) -> str:
        """Run one command; a refusal is LabError with what the API said."""
        return run([*self._words, *words], text=text, timeout_s=timeout_s)

    def try_run(self, *words: str) -> str | None:
        """The same; None when it fails."""
        try:
            return self.run(*words)
        except LabError:
            return None

    def apply(self, objects: Iterable[Object]) -> None:
        """Create or change objects."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
        self.run("apply", "--server-side", "-f", "-", text=json.dumps(items))

    def get(self, kind: str, name: str, namespace: str = "default") -> dict[str, Any] | None:
        """One object; None when it is not there."""
        text = self.run("get", kind, name, "-n", namespace, "-o", "json", "--ignore-not-found")
        found = json.loads(text) if text.strip() else None
        return found if isinstance(found, dict) else None

    def items(self, kind: str, namespace: str = "", labels: str = "") -> list[dict[str, Any]]:
        """All objects of a kind; without a namespace those of all."""
        where = ["-n", namespace] if namespace else ["-A"]
        words = [*where, *(["-l", labels] if labels else []), "-o", "json"]
        found = json.loads(self.run("get", kind, *words))["items"]
        return list(found)

    def delete(self, kind: str, name: str, namespace: str = "default", *words: str) -> None:
        """Ask for the removal of an object; gone already is fine."""
        self.run(
            "delete", kind, name, "-n", namespace, "--ignore-not-found", "--wait=false", *words
        )

    def execute(self, pod: str, *argv: str, namespace: str = "default") -> str:
        """Run a program in a pod."""
        return self.run("exec", pod, "-n", namespace, "--", *argv, timeout_s=60.0)

    def wait(
        self,
        kind: str,
        name: str,
        holds: Callable[[dict[str, Any]], bool],
        what: str,
        *,
        namespace: str = "default",
        deadline_s: float = 120.0,
    ) -> dict[str, Any]:
        """Wait until an object is as it should be, and give it."""

        def look() -> dict[str, Any] | None:
            found = self.get(kind, name, namespace)
            return found if found is not None and holds(found) else None

        found = wait_for(look, f"{kind} {name}: {what}", deadline_s, POLL_S)
        return found or {}

    def wait_gone(
        self, kind: str, name: str, namespace: str = "default", deadline_s: float = 120.0
    ) -> None:
        """Wait until an object is not there any more."""
        wait_for(
            lambda: self.get(kind, name, namespace) is None, f"{kind} {name} to be gone",
            deadline_s, POLL_S,
        )  # fmt: skip


def rolled_out(found: Object) -> bool:
    """Whether a Deployment, StatefulSet or DaemonSet runs what its object says, everywhere."""
    status, kind = found.get("status", {}), found["kind"]
    if status.get("observedGeneration", 0) < found["metadata"]["generation"]:
        return False
    if kind == "DaemonSet":
        wanted = status.get("desiredNumberScheduled", 0)
        ready, updated = status.get("numberReady", 0), status.get("updatedNumberScheduled", 0)
        return bool(wanted > 0 and ready == wanted == updated)
    wanted = found["spec"]["replicas"]
    ready, updated = status.get("readyReplicas", 0), status.get("updatedReplicas", 0)
    return bool(ready == wanted == updated)


def node_ready(found: Object) -> bool:
    """Whether a node can take pods."""
    conditions = found.get("status", {}).get("conditions", ())
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
