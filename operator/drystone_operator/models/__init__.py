"""The custom resources of ``drystone.io/v1alpha1`` as pydantic models: spec and status.

Belongs here: shapes, bounds, defaults and what follows from one object alone. ``crds/*.yaml`` say
the same to the API server; ``tests/crds`` compares the two, property by property.
Does not belong here: kopf, HTTP, anything that reads or writes an object.
"""

from drystone_operator.models.cluster import (
    StorageClusterSpec as StorageClusterSpec,
    StorageClusterStatus as StorageClusterStatus,
)
from drystone_operator.models.common import (
    API_GROUP as API_GROUP,
    API_VERSION as API_VERSION,
    Condition as Condition,
    ConditionStatus as ConditionStatus,
)
from drystone_operator.models.disk import (
    StorageDiskSpec as StorageDiskSpec,
    StorageDiskStatus as StorageDiskStatus,
)
from drystone_operator.models.node import (
    StorageNodeSpec as StorageNodeSpec,
    StorageNodeStatus as StorageNodeStatus,
)
from drystone_operator.models.pool import (
    StoragePoolSpec as StoragePoolSpec,
    StoragePoolStatus as StoragePoolStatus,
)
