"""The managed etcd: StatefulSet, its headless Service, and how a member without data begins."""

from __future__ import annotations

from drystone_operator import names
from drystone_operator.resources import stateful
from drystone_operator.resources.base import (
    Build,
    Json,
    field_env,
    mount,
    pod_template,
    resources,
    selector,
    thing,
)

DATA_DIR = "/var/lib/etcd"
STATE_KEY = "initial-cluster-state"


def beginning(build: Build) -> Json:
    """C-etcd, a ConfigMap: what a member does that finds no data; one that has some ignores it.

    While there is no cluster yet, they found one together. Afterwards never again: a member with an
    empty folder joins the others as they know it, and if all lost their data nothing starts, rather
    than a metadata store without a record. It is no argument in the pod template, so that the turn
    restarts no member; a pod takes it up whenever it starts next.
    """
    found = thing(build, "ConfigMap", "v1", "etcd")
    return {**found, "data": {STATE_KEY: "existing" if build.established else "new"}}


def service(build: Build) -> Json:
    """C-etcd: a name for each member, also while they look for each other."""
    found = thing(build, "Service", "v1", "etcd")
    found["spec"] = {
        "clusterIP": "None",
        "publishNotReadyAddresses": True,
        "selector": selector(build, "etcd"),
        "ports": [
            {"name": "client", "port": names.ETCD_CLIENT_PORT},
            {"name": "peer", "port": names.ETCD_PEER_PORT},
        ],
    }
    return found


def stateful_set(build: Build) -> Json:
    """C-etcd."""
    found = thing(build, "StatefulSet", "apps/v1", "etcd")
    found["spec"] = {
        "replicas": build.etcd_replicas,
        "serviceName": build.child("etcd"),
        # All at once: none is ready before a majority is there.
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate"},
        "selector": {"matchLabels": selector(build, "etcd")},
        "template": pod_template(build, "etcd", stateful.pod(build, "etcd", _container(build))),
        "volumeClaimTemplates": [stateful.claim(build, "etcd")],
    }
    return found


def _container(build: Build) -> Json:
    return {
        "name": "etcd",
        "image": build.platform.images.etcd,
        "imagePullPolicy": build.spec.image.pull_policy.value,
        "command": ["etcd"],
        "args": _arguments(build),
        "env": [field_env("POD_NAME", "metadata.name"), _beginning_env(build)],
        "resources": resources(build, "etcd"),
        "ports": [
            {"name": "client", "containerPort": names.ETCD_CLIENT_PORT},
            {"name": "peer", "containerPort": names.ETCD_PEER_PORT},
        ],
        "volumeMounts": [mount("state", DATA_DIR)],
        "readinessProbe": {
            "httpGet": {"path": "/health", "port": names.ETCD_CLIENT_PORT},
            "periodSeconds": 5,
            "timeoutSeconds": 3,
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def _beginning_env(build: Build) -> Json:
    # Not optional: without the word etcd would take `new`.
    where = {"name": build.child("etcd"), "key": STATE_KEY}
    return {"name": "ETCD_INITIAL_CLUSTER_STATE", "valueFrom": {"configMapKeyRef": where}}


def _arguments(build: Build) -> list[str]:
    host = f"$(POD_NAME).{build.child('etcd')}.{build.namespace}.svc"
    client = f"http://{host}:{names.ETCD_CLIENT_PORT}"
    peer = f"http://{host}:{names.ETCD_PEER_PORT}"
    return [
        "--name=$(POD_NAME)",
        f"--data-dir={DATA_DIR}/data",
        f"--listen-client-urls=http://0.0.0.0:{names.ETCD_CLIENT_PORT}",
        f"--listen-peer-urls=http://0.0.0.0:{names.ETCD_PEER_PORT}",
        f"--advertise-client-urls={client}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster={members(build)}",
        f"--initial-cluster-token={build.namespace}.{build.name}",
        # Managers compact to five minutes back; this bounds what a dead manager leaves.
        "--auto-compaction-mode=periodic",
        "--auto-compaction-retention=1h",
        "--quota-backend-bytes=4294967296",
    ]


def members(build: Build) -> str:
    """Every member with its peer address, as etcd wants to be told at its first start."""
    pod, service_name = build.child("etcd"), build.child("etcd")
    return ",".join(
        f"{pod}-{n}=http://{pod}-{n}.{service_name}.{build.namespace}.svc:{names.ETCD_PEER_PORT}"
        for n in range(build.etcd_replicas)
    )
