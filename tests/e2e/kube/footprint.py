"""What our pods cost while nobody uses a volume: processor time of a node, memory of a pod."""

from __future__ import annotations

import json
import math
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from tests.e2e.kube.chart import NAMESPACE
from tests.e2e.kube.run import Run
from tests.e2e.kube.settings import node_name
from tests.e2e.lib.waits import wait_for

SETTLE_S: Final = 60.0
"""What came before goes on for a while: layers are freed, drives are cleaned, claims forgotten."""

WINDOW_S: Final = 60.0
FRESH_S: Final = 60.0  # kubelet looks every ten seconds
MIB: Final = 1 << 20
COMPONENTS: Final = (
    "operator", "manager", "server", "beacon", "block", "fuse", "csi-node", "csi-controller",
    "guard", "etcd",
)  # fmt: skip
NEVER: Final = datetime.fromtimestamp(0, UTC)


@dataclass(frozen=True, slots=True)
class Pod:
    """One of our pods: when kubelet looked at it, nanoseconds used until then, bytes in use."""

    seen: datetime
    cpu_ns: int
    memory: int


def idle(run: Run) -> None:
    """Two looks at every node, a minute apart, when there was nothing to do for a minute."""
    threading.Event().wait(SETTLE_S)
    first = _look(run)
    threading.Event().wait(WINDOW_S)
    wait_for(lambda: _is_newer(_look(run), first), "newer figures of kubelet", FRESH_S, 2.0)
    second = _look(run)
    for number in run.lab.numbers():
        node = node_name(number)
        ours = {name: pod for name, pod in second[node].items() if "-etcd-" not in name}
        used = math.fsum(_share(first[node][name], pod) for name, pod in ours.items())
        run.figures.add(f"idle: processor time of our pods on {node}, without etcd",
                        used * 100, "% of a core", "2 %")  # fmt: skip
    _by_component(run, first, second)
    for what, part, bar in (
        ("operator", "-operator-", "150 MiB"),
        ("CSI node plugin with sidecars", "-csi-node-", "80 MiB"),
        ("CSI controller with sidecars", "-csi-controller-", ""), ("manager", "-manager-", ""),
        ("server", "-server-", ""), ("beacon", "-beacon-", ""), ("block", "-block-", ""),
        ("fuse", "-fuse-", ""), ("etcd", "-etcd-", ""),
    ):  # fmt: skip
        found = [p.memory for pods in second.values() for name, p in pods.items() if part in name]
        run.figures.add(f"memory of a pod, largest: {what}", max(found) / MIB, "MiB", bar)
    run.steps.say("looked at what idle pods cost")


def _by_component(
    run: Run, first: dict[str, dict[str, Pod]], second: dict[str, dict[str, Pod]]
) -> None:
    """Which of them it is: the pod of each component that used most, and the one that used least.

    Of managers one leads, and of CSI controllers one works.
    """
    for part in COMPONENTS:
        used = [
            _share(first[node][name], pod) * 100
            for node, pods in second.items()
            for name, pod in pods.items()
            if f"-{part}-" in name
        ]
        if used:
            run.figures.add(
                f"idle: processor time of a pod, most: {part}", max(used), "% of a core"
            )
            run.figures.add(
                f"idle: processor time of a pod, least: {part}", min(used), "% of a core"
            )


def _look(run: Run) -> dict[str, dict[str, Pod]]:
    return {node_name(number): _node(run, node_name(number)) for number in run.lab.numbers()}


def _node(run: Run, node: str) -> dict[str, Pod]:
    text = run.kubectl.run("get", "--raw", f"/api/v1/nodes/{node}/proxy/stats/summary")
    found: dict[str, Pod] = {}
    for pod in json.loads(text)["pods"]:
        if pod["podRef"]["namespace"] == NAMESPACE:
            containers: list[dict[str, Any]] = pod.get("containers", [])
            found[pod["podRef"]["name"]] = Pod(
                seen=min(
                    (datetime.fromisoformat(c["cpu"]["time"]) for c in containers if "cpu" in c),
                    default=NEVER,
                ),
                cpu_ns=sum(c.get("cpu", {}).get("usageCoreNanoSeconds", 0) for c in containers),
                memory=sum(c.get("memory", {}).get("workingSetBytes", 0) for c in containers),
            )
    return found


def _share(then: Pod, now: Pod) -> float:
    return (now.cpu_ns - then.cpu_ns) / 1e9 / (now.seen - then.seen).total_seconds()


def _is_newer(now: dict[str, dict[str, Pod]], then: dict[str, dict[str, Pod]]) -> bool:
    """Whether kubelet has looked at every pod since ``then``."""
    every = [
        (pod, then[node].get(name)) for node, pods in now.items() for name, pod in pods.items()
    ]
    return all(old is not None and pod.seen > old.seen for pod, old in every)
