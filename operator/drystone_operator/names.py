"""Names, labels, ports and paths: every one that Kubernetes objects of ours carry, once.

Frozen early: an object whose name or owner changes in a later version is stranded at the upgrade.
"""

from __future__ import annotations

from typing import Final

GROUP: Final = "drystone.io"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"
DRIVER: Final = "csi.drystone.io"

FIELD_MANAGER: Final = "drystone-operator"
STATUS_MANAGER: Final = "drystone-operator-status"
"""Status is applied under a name of its own, so that neither apply takes the other's fields."""

FINALIZER: Final = f"{GROUP}/operator"
STATE_PREFIX: Final = f"operator.{GROUP}"
"""Prefix of the annotations in which kopf keeps its own state."""

LABEL_NAME: Final = "app.kubernetes.io/name"
LABEL_COMPONENT: Final = "app.kubernetes.io/component"
LABEL_INSTANCE: Final = "app.kubernetes.io/instance"
LABEL_MANAGED_BY: Final = "app.kubernetes.io/managed-by"
LABEL_CLUSTER: Final = f"{GROUP}/cluster"
LABEL_NODE_SERVER: Final = f"{GROUP}/server"
"""On a Node: servers of that cluster may run here; set once its join token is in the Secret."""
LABEL_NODE_BLOCK: Final = f"{GROUP}/block"
"""On a Node: volumes of that cluster may be attached here."""
LABEL_TOPOLOGY: Final = "topology.drystone.io/cluster"
"""On a Node: put there by kubelet, by what CSI says; where volumes of that cluster are reached."""
ANNOTATION_TEMPLATE: Final = f"{GROUP}/template"
"""Digest of a pod template; a pod whose digest is another one is of an older version."""
ANNOTATION_SETTINGS: Final = f"{GROUP}/settings"

TAINT_KEY: Final = "node.kubernetes.io/out-of-service"
TAINT_VALUE: Final = "drystone-fenced"
"""Tells our taint from a person's: only ours is ever removed."""
TAINT_EFFECT: Final = "NoExecute"

COMPONENTS_WITH_METRICS: Final = ("manager", "server", "beacon", "block", "fuse")
"""In the order of their ports, from `network.ports.metrics` on."""

CSI_COMPONENTS: Final = ("csi-node", "csi-controller")
"""Their pods have a network of their own, where the first of these ports is theirs."""

ETCD_CLIENT_PORT: Final = 2379
ETCD_PEER_PORT: Final = 2380

SETTINGS_DIR: Final = "/etc/drystone/settings"
JOIN_DIR: Final = "/etc/drystone/join"
MASTER_DIR: Final = "/etc/drystone/master"
TOKENS_DIR: Final = "/etc/drystone/tokens"
TLS_DIR: Final = "/etc/drystone/tls"

CLUSTER_DOMAIN: Final = "cluster.local"
"""Where a person says nothing else; only for names in certificates."""

ANNOTATION_RENEW: Final = f"{GROUP}/renew"
"""On the Secret of the authority, by a person: make another one."""

ANNOTATION_NAMES: Final = f"{GROUP}/names"
"""On the same Secret, by a person: more names for the managers' certificate, with commas."""

NODE_NAME_CHARS_MAX: Final = 57
"""A consuming node registers as `block-<node>`, and names of the engine have 63 characters."""


def child(cluster: str, component: str) -> str:
    """The name of an object that belongs to a cluster."""
    return f"{cluster}-{component}"


def instance(namespace: str, cluster: str) -> str:
    """The value of our labels on Nodes: clusters of two namespaces may have one name."""
    return f"{namespace}.{cluster}"[:63].rstrip("-.")


def client_name(node: str) -> str:
    """How the consuming side of a node registers; storage side and node share one name."""
    return f"block-{node}"


def manager_hosts(cluster: str, namespace: str, count: int) -> tuple[str, ...]:
    """The host name of each manager: clients go round them until one leads."""
    service = child(cluster, "managers")
    pod = child(cluster, "manager")
    return tuple(f"{pod}-{n}.{service}.{namespace}.svc" for n in range(count))
