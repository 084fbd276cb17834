"""Facts of a Kubernetes, and of its nodes together, to findings. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from drystone_cli.doctor.facts import ClockBounds, ClusterFacts, NodeFacts
from drystone_cli.doctor.findings import Finding, ok, problem, unknown, warning

VERSION_MIN: Final = (1, 31)  # what the definitions and sidecars are made for
CLOCK_WARNING_S: Final = 1.0  # stamps of logs can no longer be compared
CLOCK_PROBLEM_S: Final = 300.0
"""Half of what a new certificate allows a clock to be behind."""


def check_cluster(facts: ClusterFacts, nodes: Mapping[str, NodeFacts]) -> list[Finding]:
    """Everything that belongs to no node, or to several."""
    return [
        *version(facts), *installed(facts), *admission(facts), *classes(facts), *snapshots(facts),
        *managers(facts), *readiness(facts), *clocks(facts), *mtus(nodes),
    ]  # fmt: skip


def version(facts: ClusterFacts) -> Iterator[Finding]:
    """Of Kubernetes."""
    if facts.version is None:
        return
    text = "Kubernetes {}.{}".format(*facts.version)
    if facts.version < VERSION_MIN:
        wanted = "{}.{}".format(*VERSION_MIN)
        yield problem("Kubernetes", f"{text} is too old", f"upgrade it to {wanted} or newer")
    else:
        yield ok("Kubernetes", text)


def installed(facts: ClusterFacts) -> Iterator[Finding]:
    """The chart's objects."""
    if facts.crds is False:
        yield warning("definitions", "StorageClusters are not known", "install the chart")
    elif facts.crds and not facts.storage_cluster:
        todo = "apply one: crds/examples has them; or name its namespace with -n"
        yield warning("StorageCluster", f"none in namespace {facts.namespace}", todo)
    elif facts.storage_cluster:
        yield ok("StorageCluster", f"{facts.namespace}/{facts.storage_cluster}")
    if facts.driver is False and facts.crds:
        todo = "set csiDriver.create in the chart's values: kubelet asks it how to mount"
        yield problem("CSIDriver", "csi.drystone.io is not there", todo)
    elif facts.driver:
        yield ok("CSIDriver", "csi.drystone.io")


def admission(facts: ClusterFacts) -> Iterator[Finding]:
    """Pods on nodes are privileged: they open disks, make devices and mount."""
    if facts.namespace_there is False:
        todo = f"kubectl create namespace {facts.namespace}"
        yield warning("namespace", f"{facts.namespace} is not there", todo)
        return
    if facts.enforce is None:
        return
    label = "pod-security.kubernetes.io/enforce"
    todo = f"kubectl label --overwrite namespace {facts.namespace} {label}=privileged"
    if facts.enforce == "privileged":
        yield ok("privileges", f"{facts.namespace} admits privileged pods")
    elif facts.enforce:
        text = f"{facts.namespace} enforces {facts.enforce!a}: pods of ours are refused"
        yield problem("privileges", text, todo)
    else:
        text = f"{facts.namespace} has no label {label}: the cluster's default decides"
        yield warning("privileges", text, todo)


def classes(facts: ClusterFacts) -> Iterator[Finding]:
    """More than one default StorageClass."""
    if facts.default_classes is None:
        return
    if len(facts.default_classes) > 1:
        text = f"several are the default: {', '.join(facts.default_classes)}"
        todo = "leave the annotation storageclass.kubernetes.io/is-default-class on one of them"
        yield warning("StorageClass", text, todo)
    elif facts.default_classes:
        yield ok("StorageClass", f"{facts.default_classes[0]} is the default")
    else:
        yield ok("StorageClass", "none is the default: claims must name one")


def snapshots(facts: ClusterFacts) -> Iterator[Finding]:
    """Definitions of snapshots, and who acts on them."""
    if facts.snapshot_definitions is False:
        yield ok("snapshots", "no definitions are installed; volumes work without them")
    elif facts.snapshot_definitions and facts.snapshot_controller is False:
        todo = "install the snapshot-controller of kubernetes-csi/external-snapshotter"
        text = "definitions are installed, but no snapshot-controller runs"
        yield warning("snapshots", text, todo)
    elif facts.snapshot_definitions:
        said = "" if facts.snapshot_controller else "; whether a controller runs is not known"
        yield ok("snapshots", f"definitions are installed{said}")


def managers(facts: ClusterFacts) -> Iterator[Finding]:
    """Whether one could be asked."""
    if facts.managers:
        todo = f"kubectl -n {facts.namespace} get pods -l app.kubernetes.io/component=manager"
        yield problem("managers", facts.managers, todo)
    elif facts.managers == "":
        yield ok("managers", "one answers")


def readiness(facts: ClusterFacts) -> Iterator[Finding]:
    """Nodes that are not ready, or could not be looked at."""
    for node in facts.nodes:
        if not node.ready:
            todo = f"kubectl describe node {node.name}"
            yield warning("node", "not ready", todo, node.name)
    for name, why in sorted(facts.not_probed.items()):
        yield unknown("node", f"not looked at from within: {why}", name)


def clocks(facts: ClusterFacts) -> Iterator[Finding]:
    """Nodes whose clocks surely differ; the length of a look is no difference."""
    if len(facts.clocks) < 2:  # noqa: PLR2004 - two are needed to differ
        return
    last = max(facts.clocks.items(), key=lambda item: item[1].low)
    first = min(facts.clocks.items(), key=lambda item: item[1].high)
    apart = last[1].low - first[1].high
    text = f"the clock of {last[0]} is at least {apart:.1f} s ahead of that of {first[0]}"
    todo = "run chrony or systemd-timesyncd on both"
    if apart >= CLOCK_PROBLEM_S:
        yield problem("clocks", text, todo)
    elif apart >= CLOCK_WARNING_S:
        yield warning("clocks", text, todo)
    else:
        yield ok("clocks", f"no difference above {_doubt(facts.clocks):.1f} s is seen")


def _doubt(clocks: Mapping[str, ClockBounds]) -> float:
    return max(bounds.high - bounds.low for bounds in clocks.values()) + CLOCK_WARNING_S


def mtus(nodes: Mapping[str, NodeFacts]) -> Iterator[Finding]:
    """Nodes whose interface has another MTU than most."""
    known = {name: facts.mtu for name, facts in nodes.items() if facts.mtu is not None}
    if len(known) < 2:  # noqa: PLR2004 - two are needed to differ
        return
    usual, _ = Counter(known.values()).most_common(1)[0]
    others = {name: mtu for name, mtu in sorted(known.items()) if mtu != usual}
    for name, mtu in others.items():
        todo = "give every node the same MTU: large packets to the smaller one are lost or cut"
        yield warning("MTU", f"{mtu}, most nodes have {usual}", todo, name)
    if not others:
        yield ok("MTU", f"{usual} on {len(known)} nodes")
