"""Our objects, parsed: a spec that an older API server let through is said, not tripped over."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from drystone_common.errors import InvalidArgumentError
from drystone_operator import names
from drystone_operator.models import (
    StorageClusterSpec,
    StorageDiskSpec,
    StorageNodeSpec,
    StoragePoolSpec,
)
from drystone_operator.models.disk import DiskPhase
from drystone_operator.models.node import RemovalPolicy
from drystone_operator.plan.disks import StorageDiskView
from drystone_operator.plan.nodes import StorageNodeView
from drystone_operator.plan.pools import StoragePoolView
from drystone_operator.resources.base import Build, Platform

Json = dict[str, Any]
EVACUATING: Final = (DiskPhase.EVACUATING.value, DiskPhase.EVACUATED.value)
_M = TypeVar("_M", bound=BaseModel)


def cluster(body: Json, platform: Platform) -> Build:
    """A StorageCluster."""
    metadata = body["metadata"]
    return Build(
        name=str(metadata["name"]),
        namespace=str(metadata["namespace"]),
        uid=str(metadata.get("uid", "")),
        spec=_spec(StorageClusterSpec, body),
        platform=platform,
        established=bool((body.get("status") or {}).get("clusterUUID")),
    )


def nodes(bodies: Iterable[Json], now: datetime) -> tuple[StorageNodeView, ...]:
    """StorageNodes; one that is not valid is passed over, its own status says so."""
    found: list[StorageNodeView] = []
    for body in bodies:
        try:
            spec = _spec(StorageNodeSpec, body)
        except InvalidArgumentError:
            continue
        away, metadata = spec.maintenance, body["metadata"]
        found.append(
            StorageNodeView(
                name=str(metadata["name"]),
                node=spec.node_name,
                fault_set=spec.fault_set,
                maintenance=away.reason if away is not None and away.until > now else "",
                until=away.until if away is not None else None,
                evacuate=spec.removal_policy is RemovalPolicy.EVACUATE,
                deleting=metadata.get("deletionTimestamp") is not None,
                held=names.FINALIZER in (metadata.get("finalizers") or ()),
            )
        )
    return tuple(found)


def disks(bodies: Iterable[Json]) -> tuple[StorageDiskView, ...]:
    """StorageDisks that are valid, oldest first: of two for one device the older one counts."""
    found: list[tuple[str, StorageDiskView]] = []
    for body in bodies:
        try:
            spec = _spec(StorageDiskSpec, body)
        except InvalidArgumentError:
            continue
        view = StorageDiskView(
            name=str(body["metadata"]["name"]),
            node=spec.node_name,
            device=spec.device,
            state=spec.state,
            power_loss_protected=spec.power_loss_protected,
            generation=int(body["metadata"].get("generation", 0)),
            retested=int((body.get("status") or {}).get("retestedGeneration") or 0),
            evacuates=(body.get("status") or {}).get("state") in EVACUATING,
        )
        found.append((str(body["metadata"].get("creationTimestamp", "")), view))
    return tuple(view for _, view in sorted(found, key=lambda pair: (pair[0], pair[1].name)))


def pools(bodies: Iterable[Json]) -> tuple[StoragePoolView, ...]:
    """StoragePools that are valid."""
    found: list[StoragePoolView] = []
    for body in bodies:
        try:
            spec = _spec(StoragePoolSpec, body)
        except InvalidArgumentError:
            continue
        metadata = body["metadata"]
        found.append(
            StoragePoolView(
                name=str(metadata["name"]),
                spec=spec,
                deleting=metadata.get("deletionTimestamp") is not None,
                held=names.FINALIZER in (metadata.get("finalizers") or ()),
            )
        )
    return tuple(found)


def _spec(model: type[_M], body: Json) -> _M:
    try:
        return model.model_validate(body.get("spec") or {})
    except ValidationError as error:
        parts = [
            f"{'.'.join(str(step) for step in item['loc']) or 'spec'}: {item['msg']}"
            for item in error.errors(include_input=False, include_url=False)[:5]
        ]
        raise InvalidArgumentError("; ".join(parts), code="invalid_spec") from error
