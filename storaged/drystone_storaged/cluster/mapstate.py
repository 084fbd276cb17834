"""Reading the whole map from the store, and writing changes of PGs back, shard by shard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final
from uuid import UUID

from drystone_common.errors import DataError, UnavailableError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode
from drystone_storaged.cluster.maprecords import (
    Kind,
    MapRecords,
    Refused,
    Shard,
    Stamp,
    sort_out,
)
from drystone_storaged.cluster.membership import PgRef, effective_min_insync
from drystone_storaged.cluster.pgmap import (
    SHARD_PGS,
    STATE_BYTE,
    ClusterMap,
    MapDrive,
    MapPool,
    PgRecord,
    encode_shard,
)
from drystone_storaged.cluster.records import Cluster, Drive, Pool
from drystone_storaged.cluster.store import Compare, MetadataStore, Op, Put, TxnResult

SHARDS_PER_TXN: Final = 32  # 8192 PGs: a drop from the largest pool is one transaction


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
    refused: tuple[Refused, ...] = ()
    """Keys that are set aside. The drives and pools of unreadable ones are in none of the above."""
    stamps: dict[str, Stamp] = field(default_factory=dict)

    @property
    def unreadable_pools(self) -> frozenset[int]:
        """Pools of which a record cannot be read: what they hold, and where, is not known."""
        return frozenset(r.number for r in self.refused if r.kind is Kind.POOL)

    @property
    def unreadable_drives(self) -> frozenset[int]:
        """Drives whose record cannot be read: whether they serve, and where, is not known."""
        return frozenset(r.number for r in self.refused if r.kind is Kind.DRIVE)

    def require(self, pools: Iterable[int] | None = None) -> None:
        """Refuse what depends on these pools (all of them, and all drives) where one is damaged."""
        among = None if pools is None else frozenset(pools)
        for one in self.refused:
            mine = one.kind is Kind.POOL and (among is None or one.number in among)
            if mine or (among is None and one.kind is Kind.DRIVE):
                raise _unreadable(one)

    def require_drives(self, drives: Iterable[int]) -> None:
        """Refuse what depends on one of these drives where its record is damaged."""
        wanted = frozenset(drives)
        for one in self.refused:
            if one.kind is Kind.DRIVE and one.number in wanted:
                raise _unreadable(one)

    def pgs(self, pool: int | None = None) -> dict[PgRef, PgRecord]:
        """Every PG, or those of one pool; ``DataError`` where one of them cannot be read.

        So whoever looks for what is *not* there never takes a damaged shard for an empty one.
        """
        self.require(self.unreadable_pools if pool is None else [pool])
        return self.known_pgs(pool)

    def known_pgs(self, pool: int | None = None) -> dict[PgRef, PgRecord]:
        """The PGs that can be read: for figures, and for changes that are made PG by PG."""
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

    def records(self) -> MapRecords:
        """The part that was read below the two prefixes."""
        return MapRecords(
            self.drives, self.drive_revisions, self.pools, self.shards, self.refused, self.stamps
        )

    def telling(self, told: MapRecords) -> MapState:
        """The same moment as it is told: nothing is set aside in it any more."""
        return replace(
            self,
            drives=told.drives,
            pools=told.pools,
            shards=told.shards,
            refused=(),
            stamps=told.stamps,
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
    """Read everything, as of one revision."""
    found = await store.view(
        (keys.CLUSTER, keys.INCARNATION, keys.FEATURE_LEVEL), (keys.DRIVES, keys.POOLS)
    )
    cluster, incarnation, level = found.keys
    if cluster is None:
        raise UnavailableError("the cluster is not initialised yet", code="not_initialised")
    records = sort_out(*found.prefixes)
    fixed = [kv for kv in found.keys if kv is not None]
    return MapState(
        decode(Cluster, cluster.value),
        int(incarnation.value) if incarnation else 1,
        int(level.value) if level else 1,
        max(records.revision, *(kv.mod_revision for kv in fixed)),
        records.drives,
        records.pools,
        records.shards,
        records.drive_revisions,
        records.refused,
        records.stamps,
    )


def _unreadable(one: Refused) -> DataError:
    return DataError(
        f"the record {one.key} in the metadata store cannot be read ({one.why}): what depends on "
        "it is refused",
        code="record_damaged",
        hint="stop who writes there, and put back exactly the value that it had before; see "
        "`drystone status`",
    )


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
) -> int | None:
    """Write changed PGs: the revision of it; None = a condition or a shard moved, so plan again.

    One transaction while 32 shards suffice. More pools than that are several, each complete in
    itself: members of different PGs do not depend on each other. ``also`` goes into the first.
    """
    touched: dict[tuple[int, int], dict[int, PgRecord]] = {}
    for ref, record in changed.items():
        touched.setdefault((ref.pool, ref.pg // SHARD_PGS), {})[ref.pg % SHARD_PGS] = record
    by_key = {(s.pool, s.index): s for s in state.shards}
    pending = [(by_key[where], records) for where, records in sorted(touched.items())]
    revision = state.revision
    for start in range(0, len(pending), SHARDS_PER_TXN):
        group = pending[start : start + SHARDS_PER_TXN]
        done = await _write_shards(store, group, conditions, also if start == 0 else ())
        if not done.succeeded:
            return None
        revision = done.revision
    return revision


async def _write_shards(
    store: MetadataStore,
    group: list[tuple[Shard, dict[int, PgRecord]]],
    conditions: Sequence[Compare],
    also: Sequence[Op],
) -> TxnResult:
    compares = list(conditions)
    ops: list[Op] = list(also)
    for shard, records in group:
        key = keys.shard(shard.pool, shard.index)
        pgs = list(shard.records())
        for index, record in records.items():
            pgs[index] = record
        compares.append(Compare.mod(key, shard.mod_revision))
        ops.append(Put(key, encode_shard(tuple(pgs))))
    return await store.txn(compares, ops)
