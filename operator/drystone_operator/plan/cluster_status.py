"""Conditions of a StorageCluster, as sentences."""

from __future__ import annotations

from typing import Any, Final

from drystone_operator.plan.views import EngineView, PodView, Unanswered, Workload
from drystone_operator.resources.base import Build, image_version
from drystone_operator.status import Condition

Json = dict[str, Any]

NEEDED: Final = ("manager", "etcd", "csi-controller")
"""Components without which volumes cannot be made or moved; the others are judged by health."""


def conditions(
    build: Build,
    engine: EngineView | Unanswered,
    workloads: tuple[Workload, ...],
    pods: tuple[PodView, ...],
    rollout: str,
) -> tuple[Condition, ...]:
    """Ready, Progressing, Degraded, Secured."""
    return (
        _other(engine) or ready(engine, workloads),
        progressing(workloads, pods, rollout),
        degraded(engine),
        secured(build),
    )


def ready(engine: EngineView | Unanswered, workloads: tuple[Workload, ...]) -> Condition:
    """Whether volumes can be made, used and moved."""
    if not workloads:
        return Condition("Ready", False, "Creating", "The cluster's objects are being made.")
    missing = [w for w in workloads if w.component in NEEDED and w.ready == 0]
    if missing:
        which = ", ".join(f"{w.kind} {w.name}" for w in missing)
        text = f"No pod of {which} is ready yet; if that lasts, `kubectl describe` its pods."
        return Condition("Ready", False, "Starting", text)
    if isinstance(engine, Unanswered):
        return Condition(
            "Ready",
            False,
            "ManagerUnreachable",
            f"No manager answers: {engine.message} Volumes in use go on.",
        )
    if engine.pgs.unavailable:
        return Condition(
            "Ready",
            False,
            "DataUnavailable",
            f"{_groups(engine.pgs.unavailable)} no copy in reach: {_first(engine)}",
        )
    if not any(d.state == "up" for d in engine.drives):
        return Condition(
            "Ready",
            False,
            "NoDisks",
            "No disk is in use yet. Set state: In on a StorageDisk that is Available.",
        )
    return Condition("Ready", True, "Serving", "Volumes can be made, used and moved.")


def _other(engine: EngineView | Unanswered) -> Condition | None:
    if isinstance(engine, Unanswered) and engine.is_other:
        return Condition("Ready", False, "OtherCluster", engine.message)
    return None


def progressing(
    workloads: tuple[Workload, ...], pods: tuple[PodView, ...], rollout: str
) -> Condition:
    """Whether something is on its way to what is wanted."""
    if not workloads:
        return Condition("Progressing", True, "Creating", "The cluster's objects are being made.")
    # An old FUSE pod stays while its node has volumes: a state to be in, not one to leave.
    outdated = [w for w in workloads if w.component != "fuse" and _outdated(w, pods)]
    if outdated:
        texts = [f"{len(_outdated(w, pods))} of {w.component}" for w in outdated]
        return Condition(
            "Progressing",
            True,
            "Updating",
            f"Pods of an older version: {', '.join(texts)}."
            + (f" Servers: {rollout}." * bool(rollout)),
        )
    waiting = [w for w in workloads if not w.complete]
    if waiting:
        texts = [f"{w.component} {w.ready}/{w.desired}" for w in waiting]
        return Condition("Progressing", True, "Starting", f"Pods start: {', '.join(texts)}.")
    old = sum(len(_outdated(w, pods)) for w in workloads)
    more = (
        f" FUSE pods of an older version stay while their nodes have volumes: {old}." if old else ""
    )
    return Condition("Progressing", False, "Complete", f"Everything runs as wanted.{more}")


def degraded(engine: EngineView | Unanswered) -> Condition:
    """Whether redundancy or service is less than wanted."""
    if isinstance(engine, Unanswered) and engine.is_other:
        return Condition("Degraded", None, "OtherCluster", "The managers are of another cluster.")
    if isinstance(engine, Unanswered):
        return Condition("Degraded", None, "ManagerUnreachable", "No manager answers.")
    if engine.health == "ok":
        return Condition("Degraded", False, "Healthy", "Every copy is in sync.")
    reason = "Critical" if engine.health == "critical" else "Warning"
    return Condition("Degraded", True, reason, _first(engine))


def secured(build: Build) -> Condition:
    """Whether REST and control speak TLS."""
    external = build.spec.external
    if external is not None:
        # Without the CA the control channel has nothing to verify with, and is in clear text.
        https = all(url.startswith("https://") for url in build.rest_urls)
        safe = https and external.ca_secret_ref is not None
    else:
        safe = build.tls
    etcd = (
        " The managed etcd speaks clear text and knows no login: only a NetworkPolicy guards it."
        if build.etcd_managed
        else ""
    )
    if safe:
        text = f"REST and the control channel speak TLS.{etcd}"
        return Condition("Secured", True, "Tls", text)
    return Condition(
        "Secured",
        False,
        "ClearText",
        f"Tokens travel in clear text between pods: confine them with a NetworkPolicy.{etcd}",
    )


def components(
    build: Build, workloads: tuple[Workload, ...], pods: tuple[PodView, ...]
) -> list[Json]:
    """How many pods of each component there are, and of which version."""
    version = image_version(build.image)
    return [
        {
            "component": w.component,
            "version": version[:253],
            "desired": w.desired,
            "ready": w.ready,
            "updated": max(0, w.desired - len(_outdated(w, pods))),
        }
        for w in sorted(workloads, key=lambda w: w.component)
    ]


def _outdated(workload: Workload, pods: tuple[PodView, ...]) -> list[PodView]:
    return [
        pod
        for pod in pods
        if pod.component == workload.component and pod.template != workload.template
    ]


def _first(engine: EngineView) -> str:
    """What the manager says first, and how much more there is."""
    if not engine.issues:
        return "The manager gives no reason."
    more = len(engine.issues) - 1
    text = engine.issues[0].rstrip(".")
    return f"{text}." if not more else f"{text} (and {more} more)."


def _groups(count: int) -> str:
    return "1 placement group has" if count == 1 else f"{count} placement groups have"
