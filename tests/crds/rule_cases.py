"""For every CEL rule: an object, or a change, that keeps it and one that breaks it."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import Any, Final

from tests.crds.crd_files import defaulted, examples, schema_of

GONE: Final = object()
"""In ``put``: take the field away."""


@dataclass(frozen=True, slots=True)
class Case:
    """An example with fields changed; ``breaks`` begins the one message that is expected."""

    title: str
    example: str
    put: dict[str, Any]
    breaks: str = ""
    was: dict[str, Any] | None = field(default=None)
    """The stored object differs from the example by this; None means that it is made anew."""

    def objects(self) -> tuple[dict[str, Any], dict[str, Any] | None]:
        old = None if self.was is None else changed(self.example, self.was)
        return changed(self.example, self.put), old


def changed(example: str, put: dict[str, Any]) -> dict[str, Any]:
    """Copy an example, put fields named by dotted paths, and fill in defaults."""
    out = copy.deepcopy(examples()[example])
    for path, value in put.items():
        *parents, last = path.split(".")
        at = out
        for name in parents:
            at = at.setdefault(name, {})
        if value is GONE:
            at.pop(last, None)
        else:
            at[last] = copy.deepcopy(value)
    result: dict[str, Any] = defaulted(schema_of(out["kind"]), out)
    return result


ETCD: Final = "spec.metadata.etcd"
MANAGED: Final = f"{ETCD}.managed"
TOLERATIONS: Final = "spec.placement.tolerations"
PORTS: Final = "spec.network.ports"
EXTERNAL: Final = {
    "endpoints": ["https://a:1"],
    "controlEndpoints": ["a:1"],
    "tokenSecretRef": {"name": "t"},
}


def _cluster_made() -> list[Case]:
    main = "storagecluster"
    return [
        Case("a name of 40", main, {"metadata.name": "a" * 40}),
        Case("a name of 41", main, {"metadata.name": "a" * 41}, "the name of a StorageCluster"),
        Case("here and elsewhere", main, {"spec.external": EXTERNAL, "spec.disks": GONE,
             "spec.defaultPool": GONE}, "give exactly one of metadata"),
        Case("neither", main, {"spec.metadata": GONE}, "give exactly one of metadata"),
        Case("elsewhere with disks", "storagecluster-external", {"spec.disks": {}}, "managers, d"),
        Case("elsewhere with managers", "storagecluster-external",
             {"spec.managers": {"replicas": 1}}, "managers, disks and"),
        Case("elsewhere with a pool", "storagecluster-external",
             {"spec.defaultPool": {"copies": 2}}, "managers, disks and"),
        Case("sqlite with one", "storagecluster-small", {"spec.managers": {"replicas": 1}}),
        Case("sqlite with three", "storagecluster-small", {"spec.managers": {"replicas": 3}},
             "metadata of type sqlite"),
        Case("etcd without its part", main, {ETCD: GONE}, "give etcd with type etcd"),
        Case("sqlite with etcd", "storagecluster-small", {ETCD: {"managed": {}}}, "give etcd with"),
        Case("https without certificates", main,
             {MANAGED: GONE, f"{ETCD}.endpoints": ["https://a:1234", "https://b:1234"]}, "https "),
        Case("https with certificates", main, {MANAGED: GONE, f"{ETCD}.endpoints":
             ["https://a:2379"], f"{ETCD}.tlsSecretRef": {"name": "x"}}),
        Case("http without certificates", main,
             {MANAGED: GONE, f"{ETCD}.endpoints": ["http://a:2379"]}),
        Case("an etcd of both", main, {f"{ETCD}.endpoints": ["http://a:2379"]},
             "give exactly one of endpoints"),
        Case("an etcd of none", main, {MANAGED: GONE}, "give exactly one of endpoints"),
        Case("a secret for ours", main, {f"{ETCD}.tlsSecretRef": {"name": "x"}}, "tlsSecretRef"),
        Case("a password for ours", main, {f"{ETCD}.passwordSecretRef": {"name": "x"}},
             "tlsSecretRef"),
        Case("an etcd half in clear text", "storagecluster-everything",
             {f"{ETCD}.endpoints": ["https://a:2379", "http://b:2379"]}, "addresses are all https"),
        Case("elsewhere half in clear text", "storagecluster-external",
             {"spec.external": {**EXTERNAL, "endpoints": ["http://a:1", "https://b:1"]}},
             "addresses are all https"),
        Case("elsewhere in clear text", "storagecluster-external",
             {"spec.external": {**EXTERNAL, "endpoints": ["http://a:1"]}}),
        Case("a CA for clear text", "storagecluster-external",
             {"spec.external": {**EXTERNAL, "endpoints": ["http://a:1"],
                                "caSecretRef": {"name": "ca"}}}, "caSecretRef needs https"),
        Case("too many in sync", main, {"spec.defaultPool.minInsync": 3}, "minInsync must not"),
        Case("a long label", main, {"spec.nodes.selector": {"a" * 318: "x"}}, "a label's key"),
        Case("a long label for pods", main, {"spec.placement.nodeSelector": {"a" * 318: "x"}},
             "a label's key"),
    ]  # fmt: skip


def _tolerations() -> list[Case]:
    main = "storagecluster"
    return [
        Case("any taint", main, {TOLERATIONS: [{"operator": "Exists"}]}),
        Case("no key", main, {TOLERATIONS: [{"value": "x"}]}, "a toleration without a key"),
        Case("a value that is not compared", main,
             {TOLERATIONS: [{"key": "a", "operator": "Exists", "value": "x"}]},
             "a toleration with operator Exists"),
        Case("a while with NoExecute", main,
             {TOLERATIONS: [{"key": "a", "effect": "NoExecute", "tolerationSeconds": 1}]}),
        Case("a while without an effect", main,
             {TOLERATIONS: [{"key": "a", "tolerationSeconds": 1}]}, "tolerationSeconds needs"),
        Case("a while with NoSchedule", main,
             {TOLERATIONS: [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}]},
             "tolerationSeconds needs"),
    ]  # fmt: skip


def _ports() -> list[Case]:
    main = "storagecluster"
    return [
        Case("ports elsewhere", main, {f"{PORTS}.rest": 9000, f"{PORTS}.drives": 30000}),
        Case("one port twice", main, {f"{PORTS}.rest": 8461}, "rest and control must differ"),
        Case("rest among drives", main, {f"{PORTS}.rest": 8489}, "rest and control must lie"),
        Case("control among metrics", main, {f"{PORTS}.control": 8494}, "rest and control must l"),
        Case("metrics among drives", main, {f"{PORTS}.metrics": 8489}, "the 20 ports from"),
        Case("drives among metrics", main, {f"{PORTS}.drives": 8494}, "the 20 ports from"),
        Case("the last ports", main, {f"{PORTS}.drives": 65516}),
        Case("past the last port", main, {f"{PORTS}.drives": 65517}, "drives takes 20 ports"),
        Case("metrics past the last", main, {f"{PORTS}.metrics": 65532}, "drives takes 20 ports"),
        Case("a port changed", main, {f"{PORTS}.rest": 9000}, "ports cannot be changed", was={}),
    ]  # fmt: skip


def _cluster_changed() -> list[Case]:
    main, full = "storagecluster", "storagecluster-everything"
    return [
        Case("another image", main, {"spec.image.tag": "0.2.0"}, was={}),
        Case("to elsewhere", main, {"spec.external": EXTERNAL, "spec.metadata": GONE,
             "spec.disks": GONE, "spec.defaultPool": GONE}, "a cluster here cannot",
             was={"spec.defaultPool": GONE}),
        Case("no default pool", main, {"spec.defaultPool": GONE}, "defaultPool cannot be", was={}),
        Case("a default pool later", main, {}, was={"spec.defaultPool": GONE}),
        Case("to sqlite", main, {"spec.metadata": {"type": "sqlite"}}, "the type of the", was={}),
        Case("to your etcd", main, {MANAGED: GONE, f"{ETCD}.endpoints": ["http://a:2379"]},
             "the etcd cannot be exchanged", was={}),
        Case("other addresses of it", full, {f"{ETCD}.endpoints": ["https://b:2379"]}, was={}),
        Case("fewer members", main, {f"{MANAGED}.replicas": 1}, "the number of etcd", was={}),
        Case("the same room", main, {f"{MANAGED}.size": 1024}, was={f"{MANAGED}.size": "1024"}),
        Case("more room", main, {f"{MANAGED}.size": "16Gi"}, "size cannot be changed", was={}),
        Case("another class", main, {f"{MANAGED}.storageClassName": "x"}, "storageClassN", was={}),
        Case("other room for managers", full, {"spec.managers.size": "3Gi"}, "size cannot", was={}),
        Case("another class for managers", full, {"spec.managers.storageClassName": "x"},
             "storageClassName cannot", was={}),
        Case("another label", main, {"spec.faultSetKey": "x/y"}, "faultSetKey cannot", was={}),
        Case("another state", main, {"spec.paths.state": "/mnt/x"}, "state cannot be", was={}),
        Case("another run", main, {"spec.paths.run": "/mnt/x"}, "run cannot be", was={}),
    ]  # fmt: skip


def _default_pool_changed() -> list[Case]:
    full = "storagecluster-everything"
    pool = "spec.defaultPool"
    return [
        Case("fewer in sync", full, {f"{pool}.minInsync": 1}, was={}),
        Case("its name", full, {f"{pool}.name": "x"}, "the default pool cannot be", was={}),
        Case("its copies", full, {f"{pool}.copies": 4}, "copies cannot be changed", was={}),
        Case("its domain", full, {f"{pool}.failureDomain": "node"}, "failureDomain cannot", was={}),
        Case("its class", full, {f"{pool}.driveClass": "ssd"}, "driveClass cannot be c", was={}),
        Case("no class", full, {f"{pool}.driveClass": GONE}, "driveClass cannot be given", was={}),
    ]


def _nodes_and_disks() -> list[Case]:
    node, disk = "storagenode", "storagedisk"
    state = "spec.state"
    protected = "spec.powerLossProtected"
    available = {state: "Available"}
    disk_in = {state: "In"}
    return [
        Case("maintenance ends", node, {"spec.maintenance": GONE}, was={}),
        Case("another node", node, {"spec.nodeName": "node-3"}, "nodeName cannot be", was={}),
        Case("a disk's other node", disk, {"spec.nodeName": "x"}, "nodeName cannot be", was={}),
        Case("another device", disk, {"spec.device": "x"}, "device cannot be changed", was={}),
        Case("taken", disk, {state: "In"}, was=available),
        Case("its cache learnt in time", disk, {protected: False}, was=available),
        Case("removed", disk, {state: "Remove"}, was=disk_in),
        Case("removed and free", disk, {state: "Available"}, was={state: "Remove"}),
        Case("free at once", disk, {state: "Available"}, "a disk that is in use", was=disk_in),
        Case("evacuated before use", disk, {state: "Evacuate"}, "a disk that is no", was=available),
        Case("its cache in use", disk, {protected: False}, "powerLossProtected", was=disk_in),
    ]


def _pools() -> list[Case]:
    name = "storagepool"
    return [
        Case("all in sync", name, {"spec.minInsync": 3}),
        Case("more than all", name, {"spec.minInsync": 4}, "minInsync must not"),
        Case("a name of 63", name, {"metadata.name": "a" * 63}),
        Case("a name of 64", name, {"metadata.name": "a" * 64}, "the name of a pool"),
        Case("fewer in sync later", name, {"spec.minInsync": 1}, was={}),
        Case("other copies", name, {"spec.copies": 4}, "copies cannot be changed", was={}),
        Case("another domain", name, {"spec.failureDomain": "drive"}, "failureDomain c", was={}),
        Case("another drive class", name, {"spec.driveClass": "ssd"}, "driveClass can", was={}),
        Case("no drive class", name, {"spec.driveClass": GONE}, "driveClass cannot be g", was={}),
        Case("a class later", name, {}, "driveClass cannot be g", was={"spec.driveClass": GONE}),
    ]


CASES: Final = [
    *_cluster_made(),
    *_tolerations(),
    *_ports(),
    *_cluster_changed(),
    *_default_pool_changed(),
    *_nodes_and_disks(),
    *_pools(),
]
