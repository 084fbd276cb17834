"""First start of a cluster: its identity, written once and never again."""

from __future__ import annotations

import hmac
import uuid
from typing import Final

from drystone_common.errors import DataError, InvalidArgumentError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.records import Cluster, Voters
from drystone_storaged.cluster.store import Compare, MetadataStore, Put
from drystone_storaged.cluster.txn import read_record

FOREIGN_SHOWN: Final = 3  # enough to see whose they are
KEY_SHOWN_MAX: Final = 80

FEATURE_LEVEL: Final = 1
"""Highest feature level of this program."""


def fingerprint(master: bytes) -> bytes:
    """What the store keeps of the master key: tells two keys apart and nothing else."""
    return hmac.digest(master, b"drystone master key", "sha256").hex().encode()


async def ensure_cluster(
    store: MetadataStore, new_uuid: uuid.UUID, now_s: int, master: bytes
) -> Cluster:
    """Give the cluster's identity, making it if the store is new; any number of times.

    Several managers may come at once: the first one's master key counts, another is refused.
    """
    await _check_free(store)
    await store.txn(
        [Compare.absent(keys.CLUSTER)],
        [
            Put(keys.CLUSTER, encode(Cluster(str(new_uuid), now_s))),
            Put(keys.MASTER, fingerprint(master)),
            Put(keys.INCARNATION, b"1"),
            Put(keys.FEATURE_LEVEL, str(FEATURE_LEVEL).encode()),
            Put(keys.VOTERS, encode(Voters(1))),
        ],
    )
    found = await read_record(store, keys.CLUSTER, Cluster)
    if found is None:
        raise DataError("the metadata store lost the cluster's identity", code="store_damaged")
    await _check_master(store, fingerprint(master))
    level = await store.get(keys.FEATURE_LEVEL)
    if level is not None and int(level.value) > FEATURE_LEVEL:
        raise InvalidArgumentError(
            f"the cluster has feature level {int(level.value)}, this program {FEATURE_LEVEL}",
            code="feature_level_too_new",
            hint="run a newer version of the program",
        )
    return found[0]


async def _check_free(store: MetadataStore) -> None:
    """A cluster is founded in an empty namespace only: what lies there is somebody's."""
    if await store.get(keys.CLUSTER) is not None:
        return
    found = await store.range("/", limit=FOREIGN_SHOWN)
    # Another manager may have founded it between the two looks: then these keys are its.
    if not found.items or await store.get(keys.CLUSTER) is not None:
        return
    shown = ", ".join(repr(item.key[:KEY_SHOWN_MAX]) for item in found.items)
    raise DataError(
        f"the metadata store holds no cluster, and keys that are none of ours ({shown})",
        code="store_foreign",
        hint="choose a namespace of its own (etcd_namespace); if it is the right one, somebody "
        "removed a part of a cluster: restore the store, nothing is written over it",
    )


async def _check_master(store: MetadataStore, mine: bytes) -> None:
    # A store from before there was a fingerprint gets that of its next manager.
    await store.txn([Compare.absent(keys.MASTER)], [Put(keys.MASTER, mine)])
    known = await store.get(keys.MASTER)
    if known is None or known.value != mine:
        raise DataError(
            "the master key of this manager is not the one that the cluster was founded with",
            code="master_mismatch",
            hint="give it the master_key_file of the other managers, or restore the file: servers "
            "know only that key",
        )
