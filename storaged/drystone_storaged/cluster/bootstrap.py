"""First start of a cluster: its identity, written once and never again."""

from __future__ import annotations

import uuid
from typing import Final

from drystone_common.errors import DataError, InvalidArgumentError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.records import Cluster, Voters
from drystone_storaged.cluster.store import Compare, MetadataStore, Put
from drystone_storaged.cluster.txn import read_record

FEATURE_LEVEL: Final = 1
"""Highest feature level of this program."""


async def ensure_cluster(store: MetadataStore, new_uuid: uuid.UUID, now_s: int) -> Cluster:
    """Give the cluster's identity, making it if the store is new; any number of times."""
    await store.txn(
        [Compare.absent(keys.CLUSTER)],
        [
            Put(keys.CLUSTER, encode(Cluster(str(new_uuid), now_s))),
            Put(keys.INCARNATION, b"1"),
            Put(keys.FEATURE_LEVEL, str(FEATURE_LEVEL).encode()),
            Put(keys.VOTERS, encode(Voters(1))),
        ],
    )
    found = await read_record(store, keys.CLUSTER, Cluster)
    if found is None:
        raise DataError("the metadata store lost the cluster's identity", code="store_damaged")
    level = await store.get(keys.FEATURE_LEVEL)
    if level is not None and int(level.value) > FEATURE_LEVEL:
        raise InvalidArgumentError(
            f"the cluster has feature level {int(level.value)}, this program {FEATURE_LEVEL}",
            code="feature_level_too_new",
            hint="run a newer version of the program",
        )
    return found[0]
