"""Guard pods: one on each storage node, so that a drain has something of ours to ask for.

A drain passes over pods of DaemonSets, which is what servers are. A guard does nothing; it stands
for the copies on its node. The budget over all of them lets none be evicted: the operator itself
deletes the guard of a node that may be drained, and the drain, which asks again and again, goes on.

Kubernetes asks no budget about pods that are pending or ended. So each guard has our finalizer
too: such an eviction is granted, but the pod stays, and the drain waits for it all the same.
"""

from __future__ import annotations

from typing import Final

from drystone_operator import names
from drystone_operator.resources.base import (
    Build,
    Json,
    nobody,
    owner,
    pod_template,
    selector,
    thing,
)
from drystone_operator.resources.daemons import TOLERATE_ALL

COMPONENT: Final = "guard"


def pod_name(build: Build, node: str) -> str:
    """Name of a node's guard."""
    return f"{build.child(COMPONENT)}-{node}"


def pod(build: Build, node: str) -> Json:
    """The guard of a node: a bare pod, since only the operator may decide when it comes back."""
    term = {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}
    required = {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}
    made = pod_template(
        build,
        COMPONENT,
        {
            "serviceAccountName": build.platform.node_account,
            "automountServiceAccountToken": False,
            "affinity": {"nodeAffinity": required},
            # Nobody else may move it: only a drain, which asks the budget.
            "tolerations": [TOLERATE_ALL],
            "priorityClassName": build.spec.placement.priority_class_name or "system-node-critical",
            "terminationGracePeriodSeconds": 1,
            "securityContext": nobody(),
            "containers": [_container(build)],
        },
    )
    metadata = {
        **made["metadata"],
        "name": pod_name(build, node),
        "namespace": build.namespace,
        "finalizers": [names.FINALIZER],
        # A drain refuses pods without a controller.
        "ownerReferences": [owner(build)],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": made["spec"]}


def budget(build: Build, count: int) -> Json:
    """C-guard: none of them may be evicted."""
    found = thing(build, "PodDisruptionBudget", "policy/v1", COMPONENT)
    found["spec"] = {
        # As a number: shares and `maxUnavailable` need a controller that can be scaled.
        "minAvailable": count,
        "selector": {"matchLabels": selector(build, COMPONENT)},
        # That of a node in trouble is the one that matters most.
        "unhealthyPodEvictionPolicy": "IfHealthyBudget",
    }
    return found


def _container(build: Build) -> Json:
    return {
        "name": COMPONENT,
        # An image that the node has anyway, and of it the smallest program that waits.
        "image": build.image,
        "imagePullPolicy": build.spec.image.pull_policy.value,
        "command": ["sleep", "infinity"],
        "resources": {"requests": {"cpu": "1m", "memory": "4Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
