"""The change of the store that a recovery makes: in steps, each of which may be repeated.

The first step puts a mark into the store, the last takes it away and raises the incarnation. As
long as the mark is there no manager leads. Whoever begins again plans from the store as it is then:
numbers that were raised already are raised once more, which harms nothing, and who is in sync comes
from the drives alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final

from drystone_common.errors import ConflictError, DrystoneError
from drystone_common.ids import format_id
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import encode
from drystone_storaged.cluster.leadership import KEEPALIVE_S, Leadership
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.nodes import name_key
from drystone_storaged.cluster.pgmap import SHARD_PGS, PgRecord, encode_shard
from drystone_storaged.cluster.records import Layer, Pool, Volume
from drystone_storaged.cluster.recovery import Recovery
from drystone_storaged.cluster.store import Delete, MetadataStore, Op, Put
from drystone_storaged.cluster.store_guarded import GuardedStore
from drystone_storaged.cluster.volumes import CSI_NAME

LEAD_WAIT_S: Final = 10.0
"""A restored etcd brings the leader's key of its time back, which ends with its lease of 2 s."""

OPS: Final = 40  # of one transaction: 40 shards are 1.2 MB at most, below the store's limit
AT_ONCE: Final = 120  # writes that only count revisions up, flushed together; one key each
RAISE_MAX: Final = 5_000_000
"""Of revisions: some minutes of an etcd. A copy that is further behind is restored with
`etcdutl --bump-revision`, which costs nothing."""

VOID: Final = (keys.SUSPECTS, keys.JOIN_TOKENS)
"""Suspicions are over, and a join token of the copy may have been spent since."""

Step = Callable[[str], None]
"""Told what is done; a test ends the process there."""


@asynccontextmanager
async def leading(store: MetadataStore, name: str) -> AsyncIterator[GuardedStore]:
    """Take the leader's key: nobody else leads meanwhile, and nobody is put out for it."""
    leadership = Leadership(store, name)
    deadline = asyncio.get_running_loop().time() + LEAD_WAIT_S
    while not await leadership.campaign():
        if asyncio.get_running_loop().time() > deadline:
            raise ConflictError(
                f"manager {await leadership.leader() or '?'} leads",
                code="manager_runs",
                hint="stop every manager first: a recovery changes the store under their feet",
            )
        await asyncio.sleep(KEEPALIVE_S)
    keeper = asyncio.create_task(_keep(leadership))
    try:
        yield GuardedStore(store, leadership)
    finally:
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)
        with suppress(DrystoneError):  # the key ends with its lease
            await leadership.resign()


async def _keep(leadership: Leadership) -> None:
    while True:
        if not await leadership.keepalive():
            return  # the next write is refused
        await asyncio.sleep(KEEPALIVE_S)


async def apply(
    store: MetadataStore, found: Recovery, pools: Mapping[int, Pool], step: Step = lambda _: None
) -> None:
    """Write the plan; ``store`` compares the leader's key with each transaction."""
    await store.txn([], [Put(keys.RECOVERY, str(found.incarnation).encode())])
    step("marked")
    await raise_revision(store, found.revision_min)
    step("raised")
    groups = await asyncio.to_thread(_groups, found, pools)
    for prefix in VOID:
        groups += [[Delete(item.key)] for item in (await store.range(prefix)).items]
    for index, ops in enumerate(_batches(groups)):
        await store.txn([], ops)
        step(f"written {index}")
    await store.txn(
        [],
        [
            Put(keys.INCARNATION, str(found.incarnation).encode()),
            Put(keys.VOTERS, encode(found.voters)),
            Delete(keys.RECOVERY),
        ],
    )
    step("done")


async def raise_revision(store: MetadataStore, least: int) -> None:
    """Count the store's revision up: drives and clients take no map of one that they have seen."""
    missing = least - await store.revision()
    if missing > RAISE_MAX:
        raise ConflictError(
            f"the copy is {missing} revisions behind what the drives have seen",
            code="copy_too_old",
            hint=f"restore the snapshot with `etcdutl snapshot restore --bump-revision {least} "
            "--mark-compacted`, and repeat this command before any manager starts",
        )
    while (left := least - await store.revision()) > 0:
        width = min(AT_ONCE, left)
        await asyncio.gather(*(_count(store, f"{keys.RECOVERY}/{i}") for i in range(width)))
    await store.txn([], [Delete(f"{keys.RECOVERY}/{i}") for i in range(AT_ONCE)])


async def _count(store: MetadataStore, key: str) -> None:
    for _ in range(16):
        await store.txn([], [Put(key, b"")])


def _groups(found: Recovery, pools: Mapping[int, Pool]) -> list[list[Op]]:
    """Everything, in groups that must be written together."""
    groups: list[list[Op]] = []
    for number, drive in sorted(found.drives.items()):
        index = Put(keys.name("drive", drive.uuid), str(number).encode())
        groups.append([index, Put(keys.drive(number), encode(drive))])
    for uuid, node in sorted(found.nodes.items()):
        bound = Put(name_key("server", node.name), f"server/{uuid}".encode())
        groups.append([bound, Put(keys.node(uuid), encode(node))])
    groups += [[Put(keys.volume(v.id), encode(v))] for v in found.volumes.volumes]
    heads = {layer.id: layer for layer in found.volumes.layers}
    groups += [_new_volume(v, heads.pop(v.head, None)) for v in found.volumes.found]
    groups += [[Put(keys.layer(layer.id), encode(layer))] for layer in heads.values()]
    groups += [[Put(keys.order(o.pool, o.id), encode(o))] for o in found.volumes.orders]
    # Last: whoever begins again learns from the volume what is to be freed.
    groups += [_gone_volume(v) for v in found.volumes.deleted]
    groups += [
        [Put(keys.id_counter(kind), str(number).encode())]
        for kind, number in sorted(found.counters.items())
    ]
    groups += [[Put(key, value)] for key, value in _shards(found.pgs, pools)]
    return groups


def _new_volume(volume: Volume, head: Layer | None) -> list[Op]:
    number = format_id(volume.id).encode()
    ops: list[Op] = [
        Put(keys.name("volume", volume.name), number),
        Put(keys.volume(volume.id), encode(volume)),
        Put(keys.pool_use(volume.pool), number),
    ]
    return ops if head is None else [*ops, Put(keys.layer(head.id), encode(head))]


def _gone_volume(volume: Volume) -> list[Op]:
    ops: list[Op] = [Delete(keys.volume(volume.id)), Delete(keys.name("volume", volume.name))]
    if volume.name.startswith("csi-") and CSI_NAME in volume.attributes:
        ops.append(Delete(keys.name("csi", volume.name.removeprefix("csi-"))))
    return ops


def _shards(
    pgs: Mapping[PgRef, PgRecord], pools: Mapping[int, Pool]
) -> Iterator[tuple[str, bytes]]:
    for pool in sorted(pools.values(), key=lambda p: p.id):
        for start in range(0, pool.pg_count, SHARD_PGS):
            end = min(start + SHARD_PGS, pool.pg_count)
            records = tuple(pgs[PgRef(pool.id, pg)] for pg in range(start, end))
            yield keys.shard(pool.id, start // SHARD_PGS), encode_shard(records)


def _batches(groups: Sequence[list[Op]]) -> Iterator[list[Op]]:
    batch: list[Op] = []
    for group in groups:
        if len(batch) + len(group) > OPS:
            yield batch
            batch = []
        batch += group
    if batch:
        yield batch
