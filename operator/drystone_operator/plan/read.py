"""Kubernetes objects as views. Objects come from others: whatever is missing reads as nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from drystone_operator import names
from drystone_operator.plan.views import NodeView, PodView, Taint, Workload

Json = Mapping[str, Any]

SAID_CHARS_MAX: Final = 500  # a sentence and a hint; conditions have 1024 altogether


def node(body: Json) -> NodeView:
    """A Node."""
    metadata, spec, status = _part(body, "metadata"), _part(body, "spec"), _part(body, "status")
    ready, since = _ready_condition(status)
    return NodeView(
        name=str(metadata.get("name", "")),
        ready={"True": True, "False": False}.get(ready),
        ready_since=since,
        unschedulable=spec.get("unschedulable") is True,
        labels=dict(metadata.get("labels") or {}),
        taints=tuple(
            Taint(str(t.get("key", "")), str(t.get("value", "")), str(t.get("effect", "")))
            for t in spec.get("taints") or ()
        ),
        addresses=tuple(str(a.get("address", "")) for a in status.get("addresses") or ()),
        hostname=str((metadata.get("labels") or {}).get("kubernetes.io/hostname", "")),
    )


def pod(body: Json) -> PodView:
    """A Pod."""
    metadata, spec, status = _part(body, "metadata"), _part(body, "spec"), _part(body, "status")
    labels = dict(metadata.get("labels") or {})
    annotations = metadata.get("annotations") or {}
    return PodView(
        name=str(metadata.get("name", "")),
        namespace=str(metadata.get("namespace", "")),
        uid=str(metadata.get("uid", "")),
        node=str(spec.get("nodeName") or ""),
        component=labels.get(names.LABEL_COMPONENT, ""),
        template=str(annotations.get(names.ANNOTATION_TEMPLATE, "")),
        ready=_ready_condition(status)[0] == "True",
        deleting=metadata.get("deletionTimestamp") is not None,
        held=names.FINALIZER in (metadata.get("finalizers") or ()),
        finished=status.get("phase") in ("Succeeded", "Failed"),
        running=status.get("phase") == "Running",
        said=_said(status),
        labels=labels,
    )


def _said(status: Json) -> str:
    """Our programs end with a line `error: …` and often one `hint: …`; kubelet keeps them."""
    for container in status.get("containerStatuses") or ():
        for which in ("state", "lastState"):
            ended = _part(_part(container, which), "terminated")
            lines = str(ended.get("message") or "").strip().splitlines()[-2:]
            told = [line for line in lines if line.startswith(("error: ", "hint: "))]
            if told:
                return "; ".join(line.partition(": ")[2] for line in told)[:SAID_CHARS_MAX] + "."
    return ""


def workload(body: Json, kind: str) -> Workload:
    """A DaemonSet, StatefulSet or Deployment; its kind is not in the items of a list."""
    metadata, spec, status = _part(body, "metadata"), _part(body, "spec"), _part(body, "status")
    daemon = kind == "DaemonSet"
    desired = status.get("desiredNumberScheduled") if daemon else spec.get("replicas", 1)
    ready = status.get("numberReady") if daemon else status.get("readyReplicas")
    template = _part(_part(spec, "template"), "metadata")
    return Workload(
        kind=kind,
        name=str(metadata.get("name", "")),
        component=(metadata.get("labels") or {}).get(names.LABEL_COMPONENT, ""),
        desired=int(desired or 0),
        ready=int(ready or 0),
        template=str((template.get("annotations") or {}).get(names.ANNOTATION_TEMPLATE, "")),
    )


def own(body: Json) -> dict[str, Any]:
    """One of our objects, without what nobody asks for."""
    metadata = dict(_part(body, "metadata"))
    metadata.pop("managedFields", None)
    return {
        "metadata": metadata,
        "spec": dict(_part(body, "spec")),
        "status": dict(_part(body, "status")),
    }


def claims(body: Json) -> tuple[str, ...]:
    """Names of the claims that a pod uses, those of its generic ephemeral volumes too."""
    name = str(_part(body, "metadata").get("name", ""))
    found: list[str] = []
    for volume in _part(body, "spec").get("volumes") or ():
        if "persistentVolumeClaim" in volume:
            found.append(str(volume["persistentVolumeClaim"].get("claimName", "")))
        elif "ephemeral" in volume:
            found.append(f"{name}-{volume.get('name', '')}")
    return tuple(claim for claim in found if claim)


def _ready_condition(status: Json) -> tuple[str, str]:
    for condition in status.get("conditions") or ():
        if condition.get("type") == "Ready":
            return str(condition.get("status", "")), str(condition.get("lastTransitionTime") or "")
    return "", ""


def _part(body: Json, key: str) -> Json:
    found = body.get(key)
    return found if isinstance(found, Mapping) else {}
