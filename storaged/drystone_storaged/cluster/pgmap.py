"""PG records, map shards and the cluster map, byte for byte as in crate ``types``, ``map.rs``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from drystone_common.errors import DataError
from drystone_storaged.cluster.binary import Reader, Writer

SHARD_PGS: Final = 256
PGS_MAX: Final = 8192
MEMBERS_MAX: Final = 8  # as in the crate: 3 copies plus one joiner each, rounded up
FORMAT: Final = 1
STATE_BYTE: Final = {"up": 0, "down": 1, "gone": 2}


@dataclass(frozen=True, slots=True)
class Joiner:
    """A drive being filled: everything of epoch ``e0`` and later; 0 = everything."""

    drive: int
    join_epoch: int
    e0: int


@dataclass(frozen=True, slots=True)
class OutSince:
    """A drive that is out but remembered; ``since_s`` is wall clock, for ``out_time`` only."""

    drive: int
    e0: int
    since_s: int


@dataclass(frozen=True, slots=True)
class PgRecord:
    """Member sets of one PG; changed only by ``membership``'s planner."""

    epoch: int
    insync: tuple[int, ...]
    joining: tuple[Joiner, ...] = ()
    out: tuple[OutSince, ...] = ()
    target: tuple[int, ...] = ()

    def members(self) -> Iterator[int]:
        """Who must answer a write: in sync, then joining."""
        yield from self.insync
        for joiner in self.joining:
            yield joiner.drive

    def joiner(self, drive: int) -> Joiner | None:
        """The joining entry of a drive."""
        return next((j for j in self.joining if j.drive == drive), None)

    def out_since(self, drive: int) -> OutSince | None:
        """The entry of a drive that is out."""
        return next((o for o in self.out if o.drive == drive), None)


@dataclass(frozen=True, slots=True)
class MapDrive:
    """A drive as servers and clients see it."""

    id: int
    uuid: bytes
    node: bytes
    node_name: str
    addr: str
    nonce: int
    state: int


@dataclass(frozen=True, slots=True)
class MapPool:
    """A pool as servers and clients see it; ``shards`` are the stored bytes, used unchanged."""

    id: int
    copies: int
    min_insync: int
    pg_count: int
    shards: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class ClusterMap:
    """The whole map of one revision."""

    cluster: bytes
    incarnation: int
    feature_level: int
    revision: int
    drives: tuple[MapDrive, ...]
    pools: tuple[MapPool, ...]


def encode_pg(out: Writer, pg: PgRecord) -> None:
    """Append one record."""
    out.u32(pg.epoch).u8(len(pg.insync)).u8(len(pg.joining)).u8(len(pg.out)).u8(len(pg.target))
    for drive in pg.insync:
        out.u32(drive)
    for joiner in pg.joining:
        out.u32(joiner.drive).u32(joiner.join_epoch).u32(joiner.e0)
    for gone in pg.out:
        out.u32(gone.drive).u32(gone.e0).u64(gone.since_s)
    for drive in pg.target:
        out.u32(drive)


def decode_pg(data: Reader) -> PgRecord:
    """Read one record."""
    epoch = data.u32()
    counts = data.raw(4)
    if max(counts) > MEMBERS_MAX:
        raise DataError("a PG record has too many drives", code="record_damaged")
    insync, joining, out, target = counts
    return PgRecord(
        epoch,
        tuple(data.u32() for _ in range(insync)),
        tuple(Joiner(data.u32(), data.u32(), data.u32()) for _ in range(joining)),
        tuple(OutSince(data.u32(), data.u32(), data.u64()) for _ in range(out)),
        tuple(data.u32() for _ in range(target)),
    )


def encode_shard(pgs: tuple[PgRecord, ...]) -> bytes:
    """Give the stored form of up to 256 records."""
    out = Writer().u8(FORMAT).u32(len(pgs))
    for pg in pgs:
        encode_pg(out, pg)
    return bytes(out.out)


def decode_shard(value: bytes) -> tuple[PgRecord, ...]:
    """Read a shard."""
    data = Reader(value)
    if data.u8() != FORMAT:
        raise DataError("a map shard has another format", code="record_damaged")
    pgs = tuple(decode_pg(data) for _ in range(data.count(SHARD_PGS)))
    data.finish()
    return pgs


def encode_map(cluster_map: ClusterMap) -> bytes:
    """Give what the map stream carries."""
    out = Writer().u8(FORMAT).raw(cluster_map.cluster)
    out.u32(cluster_map.incarnation).u32(cluster_map.feature_level).u64(cluster_map.revision)
    out.u32(len(cluster_map.drives))
    for drive in cluster_map.drives:
        out.u32(drive.id).raw(drive.uuid).raw(drive.node)
        out.blob(drive.node_name.encode()).blob(drive.addr.encode())
        out.u64(drive.nonce).u8(drive.state)
    out.u32(len(cluster_map.pools))
    for pool in cluster_map.pools:
        out.u16(pool.id).u8(pool.copies).u8(pool.min_insync).u32(pool.pg_count)
        out.u32(len(pool.shards))
        for shard in pool.shards:
            out.raw(shard)
    return bytes(out.out)


def decode_map(value: bytes) -> ClusterMap:
    """Read a map: for tests and for Python processes that look into it."""
    data = Reader(value)
    if data.u8() != FORMAT:
        raise DataError("a cluster map has another format", code="record_damaged")
    head = (data.raw(16), data.u32(), data.u32(), data.u64())
    drives = tuple(_decode_drive(data) for _ in range(data.count(PGS_MAX)))
    pools = tuple(_decode_pool(data) for _ in range(data.count(1024)))
    data.finish()
    return ClusterMap(*head, drives, pools)


def _decode_drive(data: Reader) -> MapDrive:
    return MapDrive(
        data.u32(),
        data.raw(16),
        data.raw(16),
        data.raw(data.count(256)).decode(),
        data.raw(data.count(256)).decode(),
        data.u64(),
        data.u8(),
    )


def _decode_pool(data: Reader) -> MapPool:
    head = (data.u16(), data.u8(), data.u8(), data.u32())
    shards = []
    for _ in range(data.count(PGS_MAX // SHARD_PGS)):
        data.u8()
        shards.append(encode_shard(tuple(decode_pg(data) for _ in range(data.count(SHARD_PGS)))))
    return MapPool(*head, tuple(shards))
