"""StoragePool: made once there are disks enough apart; afterwards only `minInsync` changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from drystone_operator import names
from drystone_operator.models import StoragePoolSpec
from drystone_operator.models.common import FailureDomain, rounded_quantity
from drystone_operator.plan.actions import (
    Action,
    ChangePool,
    Create,
    CreatePool,
    DeletePool,
    SetFinalizer,
    WriteStatus,
)
from drystone_operator.plan.views import EnginePool, EngineView, PgCounts
from drystone_operator.resources.base import Build, labels
from drystone_operator.status import Condition

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StoragePoolView:
    """A StoragePool object."""

    name: str
    spec: StoragePoolSpec
    deleting: bool = False
    held: bool = False
    """Whether our finalizer is on it."""


@dataclass(frozen=True, slots=True)
class PoolPlan:
    """What to do for one pool, and what to say if that goes well."""

    actions: tuple[Action, ...]
    status: WriteStatus | None

    def __str__(self) -> str:
        """As a plan."""
        said = (self.status,) if self.status else ()
        return "\n".join(str(a) for a in (*self.actions, *said))


def default_pool(build: Build, pools: tuple[StoragePoolView, ...]) -> tuple[Create, ...]:
    """The StoragePool that the cluster's spec asks for. It has no owner: it holds data."""
    wanted = build.spec.default_pool
    if wanted is None or any(p.name == wanted.name for p in pools):
        return ()
    spec = wanted.model_dump(by_alias=True, exclude={"name"}, exclude_none=True, mode="json")
    body = {
        "apiVersion": names.API_VERSION,
        "kind": "StoragePool",
        "metadata": {
            "name": wanted.name,
            "namespace": build.namespace,
            "labels": labels(build, "pool"),
        },
        "spec": spec,
    }
    return (Create(body),)


def plan(pool: StoragePoolView, engine: EngineView, fault_sets: Mapping[str, str]) -> PoolPlan:
    """What to do for one pool. ``fault_sets``: of each storage node that there is."""
    found = next((p for p in engine.pools if p.name == pool.name), None)
    if pool.deleting:
        return _deleting(pool, found)
    held: tuple[Action, ...] = () if pool.held else (SetFinalizer("StoragePool", pool.name, True),)
    if found is None:
        return _missing(pool, engine, fault_sets, held)
    wanted = pool.spec.min_insync
    if wanted is not None and wanted != found.min_insync:
        held = (*held, ChangePool(pool.name, wanted))
    return PoolPlan(held, _status(pool, found, engine.pool_volumes))


def _deleting(pool: StoragePoolView, found: EnginePool | None) -> PoolPlan:
    release = SetFinalizer("StoragePool", pool.name, present=False)
    if found is None:
        return PoolPlan((release,) if pool.held else (), None)
    return PoolPlan((DeletePool(pool.name), release), None)


def refused(pool: StoragePoolView, reason: str) -> WriteStatus:
    """What to say when the manager would not do it."""
    return WriteStatus(
        "StoragePool", pool.name, (Condition("Ready", not pool.deleting, "Refused", reason),)
    )


def _missing(
    pool: StoragePoolView,
    engine: EngineView,
    fault_sets: Mapping[str, str],
    held: tuple[Action, ...],
) -> PoolPlan:
    waiting = _too_few(pool.spec, engine, fault_sets)
    if waiting:
        condition = Condition("Ready", False, "WaitingForDisks", waiting)
        return PoolPlan(held, WriteStatus("StoragePool", pool.name, (condition,)))
    spec = pool.spec
    body: Json = {
        "name": pool.name,
        "copies": spec.copies,
        "failure_domain": spec.failure_domain.value,
    }
    if spec.min_insync is not None:
        body["min_insync"] = spec.min_insync
    if spec.drive_class is not None:
        body["drive_class"] = spec.drive_class.value
    condition = Condition("Ready", False, "Creating", "The pool is being made.")
    return PoolPlan(
        (*held, CreatePool(pool.name, body)),
        WriteStatus("StoragePool", pool.name, (condition,)),
    )


def _too_few(spec: StoragePoolSpec, engine: EngineView, fault_sets: Mapping[str, str]) -> str:
    """Why it is too early; empty = it is not.

    A pool keeps the width that it is made with, so it waits until the disks of the widest domain
    that this cluster can have are up, rather than be made on the first node that came.
    """
    up = [d for d in engine.drives if d.state == "up"]
    spans = {
        FailureDomain.FAULT_SET: {fault_sets.get(d.node) or d.node for d in up},
        FailureDomain.NODE: {d.node for d in up},
        FailureDomain.DRIVE: {d.uuid for d in up},
    }
    domain = spec.failure_domain
    if domain is FailureDomain.AUTO:
        domain = _widest(spec.copies, fault_sets)
    have = len(spans[domain])
    if have >= spec.copies:
        return ""
    what = {"fault-set": "fault sets", "node": "nodes", "drive": "disks"}[domain.value]
    return f"{spec.copies} copies need disks in use in {spec.copies} {what}; there are {have}."


def _widest(copies: int, fault_sets: Mapping[str, str]) -> FailureDomain:
    if len({fault_set or node for node, fault_set in fault_sets.items()}) >= copies:
        return FailureDomain.FAULT_SET
    return FailureDomain.NODE if len(fault_sets) >= copies else FailureDomain.DRIVE


def _status(
    pool: StoragePoolView, found: EnginePool, volumes: Mapping[str, int] | None
) -> WriteStatus:
    different = _different(pool.spec, found)
    if different:
        ready = Condition("Ready", True, "NotAsWritten", different)
    elif found.pgs.unavailable:
        ready = Condition(
            "Ready",
            False,
            "DataUnavailable",
            f"{found.pgs.unavailable} placement groups have no copy in reach.",
        )
    else:
        ready = Condition("Ready", True, "Serving", "Volumes can be made and used.")
    fields: Json = {
        "poolId": found.id,
        "capacity": rounded_quantity(found.capacity),
        "used": rounded_quantity(found.used),
        "capacityBytes": found.capacity,
        "usedBytes": found.used,
        "availableBytes": found.available,
        "placementGroups": _groups(found.pgs),
    }
    if volumes is not None:
        fields["volumes"] = volumes.get(pool.name, 0)
    return WriteStatus("StoragePool", pool.name, (ready, _degraded(found.pgs)), fields)


def _different(spec: StoragePoolSpec, found: EnginePool) -> str:
    if spec.copies != found.copies:
        return (
            f"The pool has {found.copies} copies, not {spec.copies}: that cannot be changed. "
            "Make another pool and move volumes there."
        )
    return ""


def _degraded(pgs: PgCounts) -> Condition:
    if pgs.all_in_sync:
        return Condition("Degraded", False, "Healthy", "Every copy is in sync.")
    if pgs.stalled:
        text = f"In {pgs.stalled} of {pgs.total} placement groups writes wait for copies."
        return Condition("Degraded", True, "Stalled", text)
    text = f"{pgs.in_sync} of {pgs.total} placement groups have every copy in sync."
    return Condition("Degraded", True, "CopiesMissing", text)


def _groups(pgs: PgCounts) -> Json:
    return {
        "total": pgs.total,
        "inSync": pgs.in_sync,
        "degraded": pgs.degraded,
        "resyncing": pgs.resyncing,
        "stalled": pgs.stalled,
        "unavailable": pgs.unavailable,
    }
