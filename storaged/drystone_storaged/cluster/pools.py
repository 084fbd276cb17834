"""Pools: placement into map shards, and what they hold."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    DataError,
    InvalidArgumentError,
    NotFoundError,
)
from drystone_common.ids import parse_name
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.ids import IdAllocator
from drystone_storaged.cluster.maprecords import read_drives
from drystone_storaged.cluster.native import Native
from drystone_storaged.cluster.pgmap import PGS_MAX, SHARD_PGS, PgRecord, encode_shard
from drystone_storaged.cluster.placement import (
    PlacementDrive,
    PlacementSpec,
    pg_count_for,
    width_of,
)
from drystone_storaged.cluster.records import (
    Drive,
    DriveState,
    FailureDomain,
    Node,
    Pool,
    Rebalance,
    Volume,
)
from drystone_storaged.cluster.store import Compare, Delete, MetadataStore, Op, Put
from drystone_storaged.cluster.txn import read_all, read_record, retrying

COPIES_MAX: Final = 4  # a PG has at most 8 members, and each copy may be joined by a new one
NAMED_MAX: Final = 3  # volumes in a message; their number says the rest
OUT_TIME_MIN_S: Final = 10  # a server that restarts must not cost a copy of all that it holds
SCRUB_DAYS_MAX: Final = 365  # rot that nobody looks for in a year is on other copies by then
OUT_TIME_MAX_S: Final = 7 * 86_400  # longer is never, and that has a value of its own


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """What a pool shall be."""

    name: str
    copies: int
    min_insync: int
    failure_domain: FailureDomain = FailureDomain.AUTO
    drive_class: str = ""
    pg_count: int = 0


@dataclass(frozen=True, slots=True)
class PoolChanges:
    """What a pool shall be from now on; None = as it is."""

    min_insync: int | None = None
    out_time_s: int | None = None
    rebalance: Rebalance | None = None
    scrub_days: int | None = None

    def given(self) -> dict[str, Any]:
        """The fields that change."""
        named = ((f.name, getattr(self, f.name)) for f in fields(self))
        return {name: value for name, value in named if value is not None}


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
        drives, _ = await read_drives(self._store)
        out = [
            (d, nodes[d.node])
            for d in drives
            if d.state is DriveState.UP
            and not d.evacuating
            and d.node in nodes
            and spec.drive_class in ("", d.drive_class)
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

    async def for_volume(self, name: str) -> tuple[Pool, list[Compare]]:
        """A pool, and the conditions under which a new volume may be put into it."""
        pool = await self.find(name)
        found = await self._store.get(keys.pool(pool.id))
        return pool, [Compare.created(keys.pool(pool.id), found.create_revision if found else 0)]

    async def change(self, name: str, wanted: PoolChanges) -> Pool:
        """Change what may change in a pool that is in use; clients follow with the next map."""

        async def attempt() -> Pool | None:
            pool = await self.find(name)
            _check_changes(wanted, pool.copies)
            found = await read_record(self._store, keys.pool(pool.id), Pool)
            if found is None:
                return None
            new = replace(found[0], **wanted.given())
            if new == found[0]:
                return new
            done = await self._store.txn(
                [Compare.mod(found[1].key, found[1].mod_revision)],
                [Put(found[1].key, encode(new))],
            )
            return new if done.succeeded else None

        return await retrying(attempt, f"pool {name}")

    async def delete(self, name: str) -> None:
        """Remove a pool that holds nothing: no volume, and no deleted one that is still freed."""

        async def attempt() -> bool | None:
            pool = await self.find(name)
            used = await self._store.get(keys.pool_use(pool.id))
            await self._refuse_used(pool)
            info = await self._store.get(keys.pool(pool.id))
            shards = await self._store.range(keys.shards(pool.id))
            incarnation = await self._store.get(keys.INCARNATION)
            index = keys.name("pool", name)
            compares = [
                Compare.mod(keys.pool_use(pool.id), used.mod_revision if used else 0),
                Compare.mod(keys.pool(pool.id), info.mod_revision if info else 0),
            ]
            removed = [index, keys.pool(pool.id), keys.pool_use(pool.id)]
            ops: list[Op] = [Delete(key) for key in (*removed, *(kv.key for kv in shards.items))]
            # The map's revision is that of its newest part, and must not go back.
            ops.append(Put(keys.INCARNATION, incarnation.value if incarnation else b"1"))
            return True if (await self._store.txn(compares, ops)).succeeded else None

        await retrying(attempt, f"pool {name}")

    async def _refuse_used(self, pool: Pool) -> None:
        # Volumes first: one that is deleted in between has left an order by then.
        volumes = await read_all(self._store, keys.VOLUMES, Volume)
        held = sorted(v.name for v in volumes if v.pool == pool.id)
        if held:
            shown = ", ".join(held[:NAMED_MAX]) + (", …" if len(held) > NAMED_MAX else "")
            raise ConflictError(
                f"pool {pool.name} has {len(held)} volumes: {shown}",
                code="pool_in_use",
                hint="delete them first",
            )
        orders = await self._store.range(keys.orders(pool.id), limit=1)
        if orders.items:
            raise ConflictError(
                f"deleted volumes of pool {pool.name} are not freed on every drive yet",
                code="pool_in_use",
                hint="repeat later; drives that are away free them when they return, "
                "`drystone status` names them",
            )

    async def list(self) -> list[Pool]:
        """Every pool."""
        page = await self._store.range("/name/pool/")
        found = []
        for kv in page.items:
            with contextlib.suppress(DataError):  # told of in the status; the others are shown
                found.append(await read_record(self._store, keys.pool(int(kv.value)), Pool))
        return sorted((f[0] for f in found if f), key=lambda pool: pool.id)


def _check_spec(spec: PoolSpec) -> None:
    parse_name(spec.name, "pool name")
    if not 1 <= spec.copies <= COPIES_MAX:
        raise InvalidArgumentError(
            f"{spec.copies} copies are not possible",
            code="invalid_copies",
            hint=f"give 1 to {COPIES_MAX}; 3 survive the loss of any two at once",
        )
    _check_min_insync(spec.min_insync, spec.copies)
    count = spec.pg_count
    if count and (count & (count - 1) or not 1 <= count <= PGS_MAX):
        raise InvalidArgumentError(
            "pg_count must be a power of two up to 8192", code="invalid_pg_count"
        )


def _check_changes(wanted: PoolChanges, copies: int) -> None:
    if not wanted.given():
        raise InvalidArgumentError(
            "nothing to change is given",
            code="nothing_to_change",
            hint="give min_insync, out_time_s, rebalance or scrub_days",
        )
    if wanted.min_insync is not None:
        _check_min_insync(wanted.min_insync, copies)
    out_time_s = wanted.out_time_s
    if out_time_s and not OUT_TIME_MIN_S <= out_time_s <= OUT_TIME_MAX_S:
        raise InvalidArgumentError(
            f"an out time of {out_time_s} s is not possible",
            code="invalid_out_time",
            hint=f"give {OUT_TIME_MIN_S} s to {OUT_TIME_MAX_S // 86_400} days, or 0 to never "
            "re-create a drive by itself",
        )
    if wanted.scrub_days is not None and not 0 <= wanted.scrub_days <= SCRUB_DAYS_MAX:
        raise InvalidArgumentError(
            f"a scrub every {wanted.scrub_days} days is not possible",
            code="invalid_scrub_days",
            hint=f"give 1 to {SCRUB_DAYS_MAX} days, or 0 to never scrub by itself",
        )


def _check_min_insync(wanted: int, copies: int) -> None:
    if not 1 <= wanted <= copies:
        raise InvalidArgumentError(
            f"min_insync {wanted} is not possible with {copies} copies",
            code="invalid_min_insync",
            hint=f"give 1 to {copies}; writes wait while fewer copies are in sync",
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
