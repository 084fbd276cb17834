"""FUSE pods of an older version: replaced one at a time, and only where no volume is attached.

The processes behind mounted devices live in such a pod and die with it; whatever is mounted then
gets I/O errors. So an old pod stays for as long as its node has volumes, a drain at the latest
takes them away, and older and newer versions of it work with any block daemon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from drystone_operator import names
from drystone_operator.models.cluster_parts import UpgradeStrategy
from drystone_operator.plan.actions import DeletePod
from drystone_operator.plan.views import PodView

COMPONENT: Final = "fuse"


@dataclass(frozen=True, slots=True)
class FuseSeen:
    """Pods, the template wanted, and which clients have or await volumes (None = not told)."""

    pods: tuple[PodView, ...]
    template: str
    busy: frozenset[str] | None
    strategy: UpgradeStrategy = UpgradeStrategy.ROLLING_UPDATE


def outdated(pods: tuple[PodView, ...], template: str) -> tuple[PodView, ...]:
    """FUSE pods of an older version; empty where there is no such DaemonSet."""
    mine = [p for p in pods if p.component == COMPONENT and template and p.template != template]
    return tuple(sorted(mine, key=lambda p: p.node))


def plan(seen: FuseSeen) -> tuple[DeletePod, ...]:
    """The pod to replace now, if there is one."""
    if seen.busy is None or seen.strategy is UpgradeStrategy.ON_DELETE:
        return ()
    mine = [p for p in seen.pods if p.component == COMPONENT]
    # A new version that does not start must not take one node after the other.
    if any(p.deleting or (p.template == seen.template and not p.ready) for p in mine):
        return ()
    free = (
        p for p in outdated(seen.pods, seen.template) if names.client_name(p.node) not in seen.busy
    )
    return tuple(DeletePod(p.namespace, p.name, p.uid) for p in free)[:1]
