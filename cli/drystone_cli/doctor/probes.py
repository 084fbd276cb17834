"""Runs `drystone doctor --node` on nodes of a Kubernetes: in pods of ours, else in pods for it."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from drystone_cli.doctor.facts import ClockBounds, KubeNode, NodeFacts, node_facts
from drystone_cli.kube.api import Json, Kube
from drystone_cli.kube.kubectl import Kubectl
from drystone_common.errors import DataError, DeadlineError, DrystoneError, UnavailableError

LABEL: Final = "drystone.io/doctor"
AT_ONCE: Final = 8  # nodes; each is a kubectl and a connection to its kubelet
EXEC_S: Final = 60.0  # a program start on a busy node, and the deadlines of what it looks at
POD_S: Final = 120
"""Life of a pod for this: the image may have to be fetched. Kubernetes ends it if we cannot."""
PODS_LEFT_S: Final = 600.0
POLL_S: Final = 0.5

HOST_COMPONENTS: Final = ("block", "server")
"""On the node's own network: what they see of it is true of the node. `block` has the folder of
its kernel's modules too, so it comes first."""
MOUNTS_COMPONENT: Final = "csi-node"
"""Has kubelet's folder."""
CONTAINERS: Final = {MOUNTS_COMPONENT: "csi"}


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked of every node."""

    namespace: str
    kubelet_dir: str
    image: str = ""
    """For pods that are made; empty = none are."""
    pull_secrets: tuple[str, ...] = ()
    peers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By node: addresses of others, with ports."""
    names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Looked:
    """What came back of one node."""

    facts: NodeFacts | None = None
    clock: ClockBounds | None = None
    why: str = ""


def command(ask: Ask, node: KubeNode, *, ports: bool) -> list[str]:
    """The program and its arguments."""
    argv = ["drystone", "doctor", "--node", "--output", "json", "--name", node.name]
    argv += ["--kubelet-dir", ask.kubelet_dir, "--address", node.address]
    if not ports:
        argv.append("--no-ports")
    for peer in ask.peers.get(node.name, ()):
        argv += ["--peer", peer]
    for name in ask.names:
        argv += ["--resolve", name]
    return argv


class Probes:
    """Looks at nodes, several at a time."""

    def __init__(self, kube: Kube, kubectl: Kubectl, clock: Callable[[], float]) -> None:
        self._kube = kube
        self._kubectl = kubectl
        self._clock = clock

    def look(
        self,
        ask: Ask,
        nodes: Sequence[KubeNode],
        pods: Sequence[Json],
        done: Callable[[str], None],
    ) -> dict[str, Looked]:
        """Look at every node; one that fails says why and holds nothing up."""

        def one(node: KubeNode) -> Looked:
            try:
                return self._node(ask, node, pods, run)
            except DrystoneError as error:
                return Looked(why=error.message)
            finally:
                done(node.name)

        run = secrets.token_hex(4)
        with self._cleaned(ask.namespace, run), ThreadPoolExecutor(AT_ONCE) as threads:
            return dict(zip([n.name for n in nodes], threads.map(one, nodes), strict=True))

    def _node(self, ask: Ask, node: KubeNode, pods: Sequence[Json], run: str) -> Looked:
        here = {_component(p): p for p in pods if _on(p, node.name)}
        host = next((here[c] for c in HOST_COMPONENTS if c in here), None)
        if host is None:
            if not ask.image:
                raise UnavailableError("no pod of ours runs there, and no image is known")
            return self._made(ask, node, run)
        looked = self._exec(ask, node, host)
        if looked.facts is not None and MOUNTS_COMPONENT in here:
            mounts = self._exec(ask, node, here[MOUNTS_COMPONENT]).facts
            if mounts is not None:
                shared = mounts.kubelet_shared
                looked = replace(looked, facts=replace(looked.facts, kubelet_shared=shared))
        return looked

    def _exec(self, ask: Ask, node: KubeNode, pod: Json) -> Looked:
        component = _component(pod)
        if component not in HOST_COMPONENTS:
            ask = replace(ask, peers={}, names=())
        place = (ask.namespace, pod["metadata"]["name"], CONTAINERS.get(component, component))
        before = self._clock()
        # Our own processes have the ports there.
        text = self._kubectl.exec(place, command(ask, node, ports=False), EXEC_S)
        return parsed(text, before, self._clock(), node.name)

    def _made(self, ask: Ask, node: KubeNode, run: str) -> Looked:
        """A pod for it; it is removed when everything is done."""
        path = f"/api/v1/namespaces/{ask.namespace}/pods"
        before = self._clock()
        name = self._kube.create(path, pod(ask, node, run))["metadata"]["name"]
        until = time.monotonic() + POD_S
        phase = ""
        while phase not in ("Succeeded", "Failed"):
            if time.monotonic() >= until:
                raise DeadlineError(f"pod {name} did not end in {POD_S} s (it is {phase})")
            time.sleep(POLL_S)
            status = self._kube.get(f"{path}/{name}").get("status") or {}
            phase = str(status.get("phase") or "Pending")
        text = self._kube.text(f"{path}/{name}/log", container="doctor")
        return parsed(text, before, self._clock(), node.name)

    @contextmanager
    def _cleaned(self, namespace: str, run: str) -> Iterator[None]:
        """Remove what was made, whatever happens, and what an earlier run could not."""
        try:
            yield
        finally:
            path = f"/api/v1/namespaces/{namespace}/pods"
            for item in self._kube.items(path, labelSelector=LABEL):
                labels = item["metadata"].get("labels") or {}
                if labels.get(LABEL) == run or _old(item, self._clock()):
                    self._kube.delete(f"{path}/{item['metadata']['name']}", grace_s=0)


def parsed(text: str, before: float, after: float, name: str) -> Looked:
    """The answer of `drystone doctor --node`; other lines may stand around it."""
    try:
        data: Any = json.loads(text[text.index("{") : text.rindex("}") + 1])
        facts = node_facts(data["facts"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the answer of {name} is none: {text.strip()[-200:]!a}; its image may be older"
        ) from error
    bounds = None
    if isinstance(facts.clock, float | int):
        bounds = ClockBounds(facts.clock - after, facts.clock - before)
    return Looked(replace(facts, node=name), bounds)


def pod(ask: Ask, node: KubeNode, run: str) -> Json:
    """A short-lived pod that sees its node as root does, and changes nothing."""
    folders = {"modules": "/lib/modules", "kubelet": ask.kubelet_dir, "dev": "/dev"}
    spec: Json = {
        "nodeName": node.name,
        "restartPolicy": "Never",
        "activeDeadlineSeconds": POD_S,
        "terminationGracePeriodSeconds": 0,
        "hostNetwork": True,
        "hostPID": True,
        "dnsPolicy": "ClusterFirstWithHostNet",
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
        "tolerations": [{"operator": "Exists"}],
        "imagePullSecrets": [{"name": name} for name in ask.pull_secrets],
        "containers": [
            {
                "name": "doctor",
                "image": ask.image,
                "args": command(ask, node, ports=True)[1:],
                # The image's first process is not the first of the node, and would complain.
                "env": [{"name": "TINI_SUBREAPER", "value": ""}],
                "securityContext": {"privileged": True, "runAsUser": 0, "runAsGroup": 0},
                "volumeMounts": [
                    {"name": name, "mountPath": path, "readOnly": True}
                    for name, path in folders.items()
                ],
            }
        ],
        "volumes": [{"name": name, "hostPath": {"path": path}} for name, path in folders.items()],
    }
    labels = {LABEL: run, "app.kubernetes.io/name": "drystone"}
    metadata = {"generateName": "drystone-doctor-", "namespace": ask.namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def _component(pod: Json) -> str:
    labels = pod["metadata"].get("labels") or {}
    return str(labels.get("app.kubernetes.io/component") or "")


def _on(pod: Json, node: str) -> bool:
    status = pod.get("status") or {}
    return pod["spec"].get("nodeName") == node and status.get("phase") == "Running"


def _old(pod: Json, now: float) -> bool:
    made = str(pod["metadata"].get("creationTimestamp") or "")
    try:
        return now - datetime.fromisoformat(made).timestamp() > PODS_LEFT_S
    except ValueError:
        return False
