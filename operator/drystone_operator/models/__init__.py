"""The custom resources of ``drystone.io/v1alpha1`` as pydantic models: spec and status.

Belongs here: shapes, bounds, defaults and what follows from one object alone. ``crds/*.yaml`` say
the same to the API server; ``tests/crds`` compares the two, property by property.
Does not belong here: kopf, HTTP, anything that reads or writes an object.
"""

from drystone_operator.models.cluster import StorageClusterSpec
from drystone_operator.models.cluster_status import StorageClusterStatus
from drystone_operator.models.common import API_GROUP, API_VERSION, Condition, ConditionStatus
from drystone_operator.models.disk import StorageDiskSpec, StorageDiskStatus
from drystone_operator.models.node import StorageNodeSpec, StorageNodeStatus
from drystone_operator.models.pool import StoragePoolSpec, StoragePoolStatus

__all__ = [
    "API_GROUP",
    "API_VERSION",
    "Condition",
    "ConditionStatus",
    "StorageClusterSpec",
    "StorageClusterStatus",
    "StorageDiskSpec",
    "StorageDiskStatus",
    "StorageNodeSpec",
    "StorageNodeStatus",
    "StoragePoolSpec",
    "StoragePoolStatus",
]
