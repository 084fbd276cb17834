"""`drystone doctor` with a Kubernetes: its API, its nodes from within, what they say together."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

from drystone_cli.doctor import cluster_checks, kube_facts, net, node_checks
from drystone_cli.doctor.facts import KUBELET_DIR, ClusterFacts, KubeNode
from drystone_cli.doctor.findings import answer
from drystone_cli.doctor.probes import Ask, Looked, Probes
from drystone_cli.kube import reach, storage
from drystone_cli.kube.api import Json, Kube
from drystone_cli.kube.reach import Access
from drystone_cli.kube.storage import StorageCluster
from drystone_cli.kube.target import Target
from drystone_cli.output import Advance, progress
from drystone_common.errors import DrystoneError, NotFoundError
from drystone_storaged.agent.rest import LOOK_S

PEERS: Final = 3
"""Others that each node looks at: the next ones by name, so that every node is looked at too and a
large cluster does not look for hours."""

SELECTOR_OPERATOR: Final = "app.kubernetes.io/name=drystone,app.kubernetes.io/component=operator"
SERVICE: Final = "kubernetes.default.svc"


def look(target: Target, kubelet_dir: str, image: str) -> dict[str, Any]:
    """Everything, for programs."""
    with reach.access(target) as to, progress("looking at nodes") as advance:
        return looked(to, kubelet_dir, image, advance, pods_may_be_made=True)


def looked(
    to: Access, kubelet_dir: str, image: str, advance: Advance, *, pods_may_be_made: bool
) -> dict[str, Any]:
    """The same for who has access already."""
    cluster = _cluster(to)
    namespace = cluster.namespace if cluster else storage.namespace_without(to.kubectl, to.target)
    pods = _pods(to.kube, namespace, cluster)
    ours = {str(p["spec"].get("nodeName")) for p in pods}
    facts = kube_facts.gather(to.kube, namespace, cluster, ours)
    drives: list[str] = []
    if cluster:
        failure, drives = _managers(to, cluster)
        facts = replace(facts, managers=failure)
    ask = Ask(
        namespace=namespace,
        kubelet_dir=_kubelet_dir(cluster, kubelet_dir),
        image=(image or _image(to.kube, namespace, pods)) if pods_may_be_made else "",
        pull_secrets=_pull_secrets(pods),
        peers=peers(facts.nodes, net.by_host(drives)),
        names=(SERVICE,),
    )
    ready = [n for n in facts.nodes if n.ready]
    return _judged(facts, _looked(to, ask, ready, pods, advance))


def _judged(facts: ClusterFacts, seen: Mapping[str, Looked]) -> dict[str, Any]:
    nodes = {name: each.facts for name, each in seen.items() if each.facts}
    facts = replace(
        facts,
        not_probed={name: each.why for name, each in seen.items() if each.why},
        clocks={name: each.clock for name, each in seen.items() if each.clock},
    )
    findings = cluster_checks.check_cluster(facts, nodes)
    for each in nodes.values():
        findings += node_checks.check_node(each)
    shown = {name: each.as_dict() for name, each in nodes.items()}
    return answer(findings) | {"cluster": asdict(facts), "nodes": shown}


def peers(
    nodes: Sequence[KubeNode], drives: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[str, ...]]:
    """Whom each node looks at: the next ones, at the ports of the drives that are up there."""
    ring = sorted((n for n in nodes if n.ready and n.address), key=lambda n: n.name)
    found: dict[str, tuple[str, ...]] = {}
    for place, node in enumerate(ring):
        others = [ring[(place + step) % len(ring)] for step in range(1, min(PEERS + 1, len(ring)))]
        found[node.name] = tuple(
            _peer(other.address, drives.get(other.address, ())) for other in others
        )
    return found


def _peer(address: str, ports: Sequence[int]) -> str:
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{','.join(map(str, ports))}" if ports else host


def _cluster(to: Access) -> StorageCluster | None:
    try:
        return storage.find_cluster(to.kube, to.kubectl, to.target)
    except NotFoundError:
        return None  # a preflight: nothing is installed yet


def _pods(kube: Kube, namespace: str, cluster: StorageCluster | None) -> list[Json]:
    selector = cluster.selector() if cluster else SELECTOR_OPERATOR
    try:
        return list(kube.items(f"/api/v1/namespaces/{namespace}/pods", labelSelector=selector))
    except NotFoundError:
        return []


def _managers(to: Access, cluster: StorageCluster) -> tuple[str, list[str]]:
    """Why no manager answers, if none does; addresses of the drives that are up."""
    try:
        with reach.reached(to, cluster, LOOK_S) as rest:
            status = rest.get("/v1/status")
    except DrystoneError as error:
        return error.message, []
    up = [d for d in status.get("drives") or () if d.get("state") == "up"]
    return "", [str(d["addr"]) for d in up if d.get("addr")]


def _kubelet_dir(cluster: StorageCluster | None, given: str) -> str:
    csi = (cluster.spec.get("csi") or {}) if cluster else {}
    return str(csi.get("kubeletDir") or given) if given == KUBELET_DIR else given


def _image(kube: Kube, namespace: str, pods: Sequence[Json]) -> str:
    """That of the cluster's own pods, else of the operator."""
    operators = _pods(kube, namespace, None)
    for pod in [*pods, *operators]:
        for container in pod["spec"].get("containers") or ():
            component = (pod["metadata"].get("labels") or {}).get("app.kubernetes.io/component")
            if container.get("name") == component and component != "etcd":
                return str(container.get("image") or "")
    return ""


def _pull_secrets(pods: Sequence[Json]) -> tuple[str, ...]:
    refs = (ref for pod in pods for ref in pod["spec"].get("imagePullSecrets") or ())
    return tuple(sorted({str(ref.get("name")) for ref in refs}))


def _looked(
    to: Access, ask: Ask, nodes: Sequence[KubeNode], pods: Sequence[Json], advance: Advance
) -> dict[str, Looked]:
    finished: list[str] = []

    def done(name: str) -> None:
        finished.append(name)
        advance(len(finished), len(nodes), name)

    return Probes(to.kube, to.kubectl, time.time).look(ask, nodes, pods, done) if nodes else {}
