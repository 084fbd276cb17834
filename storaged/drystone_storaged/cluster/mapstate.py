"""Reading the whole map from the store, and writing changes of PGs back, shard by shard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from drystone_common.errors import UnavailableError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode
from drystone_storaged.cluster.membership import PgRef, effective_min_insync
from drystone_storaged.cluster.pgmap import (
    SHARD_PGS,
    STATE_BYTE,
    ClusterMap,
    MapDrive,
    MapPool,
    PgRecord,
    decode_shard,
    encode_shard,
)
from drystone_storaged.cluster.records import Cluster, Drive, Pool
from drystone_storaged.cluster.store import Compare, KeyValue, MetadataStore, Op, Put

SHARDS_PER_TXN: Final = 32  # 8192 PGs: a drop from the largest pool is one transaction


@dataclass(frozen=True, slots=True)
class Shard:
    """A stored shard with the revision that a change must compare."""

    pool: int
    index: int
    mod_revision: int
    value: bytes
    decoded: list[tuple[PgRecord, ...]] = field(default_factory=list, compare=False, repr=False)
    """At most one: a map that stays the same is asked for its groups again and again."""

    def records(self) -> tuple[PgRecord, ...]:
        """Its placement groups, in order."""
        if not self.decoded:
            self.decoded.append(decode_shard(self.value))
        return self.decoded[0]


@dataclass(frozen=True, slots=True)
class MapState:
    """Everything the map is made of. ``revision`` is that of the newest part."""

    cluster: Cluster
    incarnation: int
    feature_level: int
    revision: int
    drives: dict[int, Drive]
    pools: dict[int, Pool]
    shards: tuple[Shard, ...]
    drive_revisions: dict[int, int]

    def pgs(self, pool: int | None = None) -> dict[PgRef, PgRecord]:
        """Every PG, or those of one pool."""
        return {
            PgRef(shard.pool, shard.index * SHARD_PGS + i): record
            for shard in self.shards
            if pool is None or shard.pool == pool
            for i, record in enumerate(shard.records())
        }

    def to_map(self) -> ClusterMap:
        """The form that servers and clients get."""
        return ClusterMap(
            UUID(self.cluster.uuid).bytes,
            self.incarnation,
            self.feature_level,
            self.revision,
            tuple(_map_drive(self.drives[i]) for i in sorted(self.drives)),
            tuple(self._map_pool(self.pools[i]) for i in sorted(self.pools)),
        )

    def _map_pool(self, pool: Pool) -> MapPool:
        shards = sorted((s for s in self.shards if s.pool == pool.id), key=lambda s: s.index)
        return MapPool(
            pool.id,
            pool.copies,
            effective_min_insync(pool.min_insync, pool.width),
            pool.pg_count,
            tuple(s.value for s in shards),
        )


async def read_state(store: MetadataStore) -> MapState:
    """Read everything, as of one revision: read again when something moved in between."""
    for _ in range(16):  # each further try means that the map changed meanwhile; it rarely does
        base = await store.revision()
        state = await _read_parts(store)
        newer = [
            await store.range(prefix, min_mod_revision=base + 1, limit=1)
            for prefix in (keys.POOLS, keys.DRIVES, keys.CLUSTER, keys.INCARNATION)
        ]
        if not any(page.items for page in newer):
            return state
    raise UnavailableError("the map changes too fast to be read", code="contended")


async def _read_parts(store: MetadataStore) -> MapState:
    cluster = await store.get(keys.CLUSTER)
    if cluster is None:
        raise UnavailableError("the cluster is not initialised yet", code="not_initialised")
    incarnation = await store.get(keys.INCARNATION)
    level = await store.get(keys.FEATURE_LEVEL)
    drives = await _range_all(store, keys.DRIVES)
    pools = await _range_all(store, keys.POOLS)
    fixed = [kv for kv in (cluster, incarnation, level) if kv is not None]
    known = [(decode(Drive, kv.value), kv.mod_revision) for kv in drives]
    infos = [decode(Pool, kv.value) for kv in pools if kv.key.endswith("/info")]
    return MapState(
        decode(Cluster, cluster.value),
        int(incarnation.value) if incarnation else 1,
        int(level.value) if level else 1,
        max(kv.mod_revision for kv in (*fixed, *drives, *pools)),
        {d.id: d for d, _ in known},
        {p.id: p for p in infos},
        tuple(_shard(kv) for kv in pools if "/map/" in kv.key),
        {d.id: revision for d, revision in known},
    )


async def _range_all(store: MetadataStore, prefix: str) -> list[KeyValue]:
    out: list[KeyValue] = []
    more = True
    while more:
        page = await store.range(prefix, after=out[-1].key if out else "")
        out += page.items
        more = page.more
    return out


def _shard(kv: KeyValue) -> Shard:
    _, _, pool, _, index = kv.key.split("/")
    return Shard(int(pool, 16), int(index, 16), kv.mod_revision, kv.value)


def _map_drive(drive: Drive) -> MapDrive:
    return MapDrive(
        drive.id,
        UUID(drive.uuid).bytes,
        bytes.fromhex(drive.node) if drive.node else bytes(16),
        drive.node_name,
        drive.addr,
        drive.nonce,
        STATE_BYTE[drive.state.value],
    )


async def write_pgs(
    store: MetadataStore,
    state: MapState,
    changed: Mapping[PgRef, PgRecord],
    conditions: Sequence[Compare],
    also: Sequence[Op] = (),
) -> bool:
    """Write changed PGs; False = a condition or a shard moved, so read and plan again.

    One transaction while 32 shards suffice. More pools than that are several, each complete in
    itself: members of different PGs do not depend on each other. ``also`` goes into the first.
    """
    touched: dict[tuple[int, int], dict[int, PgRecord]] = {}
    for ref, record in changed.items():
        touched.setdefault((ref.pool, ref.pg // SHARD_PGS), {})[ref.pg % SHARD_PGS] = record
    by_key = {(s.pool, s.index): s for s in state.shards}
    pending = [(by_key[where], records) for where, records in sorted(touched.items())]
    for start in range(0, len(pending), SHARDS_PER_TXN):
        group = pending[start : start + SHARDS_PER_TXN]
        if not await _write_shards(store, group, conditions, also if start == 0 else ()):
            return False
    return True


async def _write_shards(
    store: MetadataStore,
    group: list[tuple[Shard, dict[int, PgRecord]]],
    conditions: Sequence[Compare],
    also: Sequence[Op],
) -> bool:
    compares = list(conditions)
    ops: list[Op] = list(also)
    for shard, records in group:
        key = keys.shard(shard.pool, shard.index)
        pgs = list(decode_shard(shard.value))
        for index, record in records.items():
            pgs[index] = record
        compares.append(Compare.mod(key, shard.mod_revision))
        ops.append(Put(key, encode_shard(tuple(pgs))))
    return (await store.txn(compares, ops)).succeeded
