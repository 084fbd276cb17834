"""Everything of a metadata store that a recovery looks at, read while nobody changes it."""

from __future__ import annotations

from drystone_common.errors import DataError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.ids import LIMITS
from drystone_storaged.cluster.mapstate import read_state
from drystone_storaged.cluster.records import Layer, Node, Order, Volume, Voters
from drystone_storaged.cluster.recovery_inputs import Backup
from drystone_storaged.cluster.store import MetadataStore
from drystone_storaged.cluster.txn import read_all, read_record


async def load_backup(store: MetadataStore) -> Backup:
    """Read the store; a record that cannot be read is an error, as nothing stands in its place."""
    if await store.get(keys.CLUSTER) is None:
        raise DataError(
            "the metadata store holds no cluster",
            code="store_emptied",
            hint="put a copy of the store back first; what is in it cannot be made from the drives "
            "alone (docs/runbooks/metadata-lost.md)",
        )
    state = await read_state(store)
    state.require()
    layers = await read_all(store, keys.LAYERS, Layer)
    nodes = await read_all(store, keys.NODES, Node)
    voters = await read_record(store, keys.VOTERS, Voters)
    return Backup(
        cluster=state.cluster.uuid,
        incarnation=state.incarnation,
        revision=await store.revision(),
        drives=state.drives,
        pools=state.pools,
        pgs=state.pgs(),
        volumes=tuple(await read_all(store, keys.VOLUMES, Volume)),
        layers={layer.id: layer for layer in layers},
        orders=tuple(await read_all(store, keys.ORDERS, Order)),
        nodes={node.uuid: node for node in nodes},
        voters=voters[0] if voters else Voters(1),
        counters=await _counters(store),
    )


async def _counters(store: MetadataStore) -> dict[str, int]:
    found: dict[str, int] = {}
    for kind in LIMITS:
        kv = await store.get(keys.id_counter(kind))
        if kv is not None:
            found[kind] = int(kv.value)
    return found
