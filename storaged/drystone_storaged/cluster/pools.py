"""Pools: placement into map shards, and what they hold."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
)
from drystone_common.ids import parse_name
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.ids import IdAllocator
from drystone_storaged.cluster.native import Native
from drystone_storaged.cluster.pgmap import PGS_MAX, SHARD_PGS, PgRecord, encode_shard
from drystone_storaged.cluster.placement import (
    PlacementDrive,
    PlacementSpec,
    pg_count_for,
    width_of,
)
from drystone_storaged.cluster.records import Drive, DriveState, FailureDomain, Node, Pool
from drystone_storaged.cluster.store import Compare, MetadataStore, Op, Put
from drystone_storaged.cluster.txn import read_all, read_record

COPIES_MAX: Final = 4  # a PG has at most 8 members, and each copy may be joined by a new one
POOLS_MAX: Final = 1023  # 10 bits on the wire, 0 unused


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What a pool shall be."""

    name: str
    copies: int
    min_insync: int
    failure_domain: FailureDomain = FailureDomain.AUTO
    drive_class: str = ""
    pg_count: int = 0


class PoolService:
    """Creates and reads pools."""

    def __init__(self, store: MetadataStore, ids: IdAllocator, native: Native) -> None:
        self._store = store
        self._ids = ids
        self._native = native

    async def create(self, spec: PoolSpec) -> tuple[Pool, bool]:
        """Make a pool on the drives that are up; (pool, False) if it is there already."""
        _check_spec(spec)
        existing = await self._existing(spec)
        if existing is not None:
            return existing, False
        drives = await self._candidates(spec)
        chosen, domain = _choose_domain(spec, drives)
        width = width_of(PlacementSpec(0, 1, spec.copies, chosen))
        number = await self._ids.take("pool")
        count = spec.pg_count or pg_count_for(len(chosen), width)
        placement = PlacementSpec(number, count, spec.copies, chosen)
        # Seconds for the largest pools: beside the loop that leases and commands live on.
        targets = await asyncio.to_thread(self._native.place_pool, placement)
        pool = Pool(
            number, spec.name, spec.copies, spec.min_insync, domain, count, spec.drive_class, width
        )
        if await self._write(pool, targets):
            return pool, True
        existing = await self._existing(spec)
        if existing is None:
            raise ConflictError("the pool was changed meanwhile; try again", code="contended")
        return existing, False

    async def _existing(self, spec: PoolSpec) -> Pool | None:
        index = await self._store.get(keys.name("pool", spec.name))
        if index is None:
            return None
        found = await read_record(self._store, keys.pool(int(index.value)), Pool)
        if found is None:
            return None
        pool = found[0]
        same_domain = spec.failure_domain in (FailureDomain.AUTO, pool.failure_domain)
        if (pool.copies, pool.min_insync) != (spec.copies, spec.min_insync) or not same_domain:
            raise AlreadyExistsError(
                f"pool {spec.name} exists with other properties",
                code="pool_exists",
                hint=f"see `drystone pool show {spec.name}`, or choose another name",
            )
        return pool

    async def _candidates(self, spec: PoolSpec) -> list[tuple[Drive, Node]]:
        nodes = {n.uuid: n for n in await read_all(self._store, keys.NODES, Node)}
        drives = await read_all(self._store, keys.DRIVES, Drive)
        out = [
            (d, nodes[d.node])
            for d in drives
            if d.state is DriveState.UP and d.node in nodes and d.drive_class == spec.drive_class
        ]
        if not out:
            raise ConflictError(
                "no drive is up for the pool",
                code="no_drives",
                hint="start storage servers; `drystone drive list` shows why drives are down",
            )
        return out

    async def _write(self, pool: Pool, targets: Sequence[tuple[int, ...]]) -> bool:
        records = [PgRecord(1, target, target=target) for target in targets]
        ops: list[Op] = [
            Put(
                keys.shard(pool.id, start // SHARD_PGS),
                encode_shard(tuple(records[start : start + SHARD_PGS])),
            )
            for start in range(0, pool.pg_count, SHARD_PGS)
        ]
        # 8192 PGs are 32 shards: always one transaction, a half-made pool never exists.
        index = keys.name("pool", pool.name)
        ops += [Put(index, str(pool.id).encode()), Put(keys.pool(pool.id), encode(pool))]
        return (await self._store.txn([Compare.absent(index)], ops)).succeeded

    async def find(self, name: str) -> Pool:
        """A pool by name."""
        ok = keys.nameable(name)
        index = await self._store.get(keys.name("pool", name)) if ok else None
        found = await read_record(self._store, keys.pool(int(index.value)), Pool) if index else None
        if found is None:
            raise NotFoundError(
                f"there is no pool {name[:80]!a}",
                code="pool_not_found",
                hint="see `drystone pool list`; make one with `drystone pool create`",
            )
        return found[0]

    async def list(self) -> list[Pool]:
        """Every pool."""
        page = await self._store.range("/name/pool/")
        found = [
            await read_record(self._store, keys.pool(int(kv.value)), Pool) for kv in page.items
        ]
        return sorted((f[0] for f in found if f), key=lambda pool: pool.id)


def _check_spec(spec: PoolSpec) -> None:
    parse_name(spec.name, "pool name")
    if not 1 <= spec.copies <= COPIES_MAX:
        raise InvalidArgumentError(f"copies must be 1 to {COPIES_MAX}", code="invalid_copies")
    if not 1 <= spec.min_insync <= spec.copies:
        raise InvalidArgumentError(
            "min_insync must be 1 to the number of copies", code="invalid_min_insync"
        )
    count = spec.pg_count
    if count and (count & (count - 1) or not 1 <= count <= PGS_MAX):
        raise InvalidArgumentError(
            "pg_count must be a power of two up to 8192", code="invalid_pg_count"
        )


def _choose_domain(
    spec: PoolSpec, drives: list[tuple[Drive, Node]]
) -> tuple[tuple[PlacementDrive, ...], FailureDomain]:
    """The widest domain that gives as many as there are copies; else the one that gives most."""
    order = [FailureDomain.NODE, FailureDomain.DRIVE]
    if any(node.fault_set for _, node in drives):
        order.insert(0, FailureDomain.FAULT_SET)
    if spec.failure_domain is not FailureDomain.AUTO:
        return in_domain(drives, spec.failure_domain), spec.failure_domain
    for domain in order:
        chosen = in_domain(drives, domain)
        if len({d.domain for d in chosen}) >= spec.copies:
            return chosen, domain
    return in_domain(drives, FailureDomain.DRIVE), FailureDomain.DRIVE


def in_domain(
    drives: list[tuple[Drive, Node]], domain: FailureDomain
) -> tuple[PlacementDrive, ...]:
    """Drives as the placement sees them, labelled with what copies must not share."""

    def label(drive: Drive, node: Node) -> str:
        if domain is FailureDomain.DRIVE:
            return f"drive/{drive.id}"
        if domain is FailureDomain.FAULT_SET and node.fault_set:
            return f"set/{node.fault_set}"
        return f"node/{node.uuid}"

    # A weight of zero would never be chosen: a tiny drive still counts a little.
    return tuple(
        PlacementDrive(drive.id, label(drive, node), max(drive.weight, 1e-6))
        for drive, node in drives
    )


def pool_capacity(pool: Pool, targets: Sequence[tuple[int, ...]], sizes: dict[int, int]) -> int:
    """Bytes of volumes that fit: the drive that fills first decides.

    ``sizes`` are bytes of each drive that data may use.
    """
    slots = Counter(drive for target in targets for drive in target)
    fits = [sizes.get(drive, 0) * pool.pg_count // count for drive, count in slots.items()]
    return min(fits, default=0) * (100 - pool.reserve_percent) // 100
