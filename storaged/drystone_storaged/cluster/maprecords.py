"""The records that the map is made of, as they lie in the store: what cannot be used is set aside.

A key of somebody else below our prefixes is named and left alone. A record of ours that cannot be
read is refused: its drive is not known, its pool as a whole is not known. Neither is ever taken for
one that is not there, or for an empty one: see ``MapState.pgs`` and ``MapState.require``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Final
from uuid import UUID

from drystone_common.errors import DataError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode
from drystone_storaged.cluster.pgmap import PGS_MAX, SHARD_PGS, PgRecord, decode_shard
from drystone_storaged.cluster.records import Drive, Pool
from drystone_storaged.cluster.store import KeyValue, MetadataStore

TEXT_MAX: Final = 256  # as the map takes it
U64: Final = 1 << 64
WIDTH_MAX: Final = 255  # one byte in the map

DRIVES_KEPT: Final = 4096
SHARDS_KEPT: Final = 256
"""Values that were taken apart and are met again at nearly every look: a change of the map changes
few of them. What a value means follows from its bytes alone, so this remembers nothing of a store.
Several times a cluster of the planned size; about 30 MB at most."""

_DRIVE: Final = re.compile(re.escape(keys.DRIVES) + r"([0-9a-f]{8})")
_INFO: Final = re.compile(re.escape(keys.POOLS) + r"([0-9a-f]{4})/info")
_SHARD: Final = re.compile(re.escape(keys.POOLS) + r"([0-9a-f]{4})/map/([0-9a-f]{3})")


class Kind(Enum):
    """What a refused key is."""

    FOREIGN = "foreign"
    DRIVE = "drive"
    POOL = "pool"


@dataclass(frozen=True, slots=True)
class Refused:
    """A key that is set aside; ``number`` is that of the drive or pool that it belongs to."""

    key: str
    kind: Kind
    number: int
    why: str


@dataclass(frozen=True, slots=True)
class Stamp:
    """Which value of a key was read. Versions count without gaps for as long as the key stands."""

    created: int
    modified: int
    version: int


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
class MapRecords:
    """What was read below the two prefixes. ``revision`` leaves foreign keys out of account."""

    drives: dict[int, Drive]
    drive_revisions: dict[int, int]
    pools: dict[int, Pool]
    shards: tuple[Shard, ...]
    refused: tuple[Refused, ...]
    stamps: dict[str, Stamp]
    """Of every key of ours, readable or not."""

    @property
    def revision(self) -> int:
        """The newest change. A foreign key that is removed must not make the map older."""
        return max((stamp.modified for stamp in self.stamps.values()), default=0)


async def read_drives(store: MetadataStore) -> tuple[list[Drive], tuple[Refused, ...]]:
    """The drives that can be read, and the rest by key."""
    found = sort_out(await range_all(store, keys.DRIVES), ())
    return list(found.drives.values()), found.refused


def sort_out(drives: Iterable[KeyValue], pools: Iterable[KeyValue]) -> MapRecords:
    """Tell records from what is refused."""
    sorter = _Sorter()
    for kv in drives:
        sorter.drive(kv)
    for kv in pools:
        sorter.pool(kv)
    return sorter.done()


async def range_all(store: MetadataStore, prefix: str) -> list[KeyValue]:
    """Every key of a prefix."""
    out: list[KeyValue] = []
    more = True
    while more:
        page = await store.range(prefix, after=out[-1].key if out else "")
        out += page.items
        more = page.more
    return out


class _Sorter:
    def __init__(self) -> None:
        self._drives: dict[int, Drive] = {}
        self._revisions: dict[int, int] = {}
        self._infos: dict[int, Pool] = {}
        self._shards: dict[int, dict[int, Shard]] = {}
        self._refused: list[Refused] = []
        self._stamps: dict[str, Stamp] = {}

    def drive(self, kv: KeyValue) -> None:
        match = _DRIVE.fullmatch(kv.key)
        if match is None:
            self._refuse(kv.key, Kind.FOREIGN, 0, "no key of ours has this form")
            return
        number = int(match[1], 16)
        self._stamp(kv)
        try:
            self._drives[number] = _drive(number, kv.value)
            self._revisions[number] = kv.mod_revision
        except DataError as error:
            self._refuse(kv.key, Kind.DRIVE, number, error.message)

    def pool(self, kv: KeyValue) -> None:
        info, shard = _INFO.fullmatch(kv.key), _SHARD.fullmatch(kv.key)
        match = info or shard
        if match is None:
            self._refuse(kv.key, Kind.FOREIGN, 0, "no key of ours has this form")
            return
        number = int(match[1], 16)
        self._stamp(kv)
        try:
            if info is not None:
                self._infos[number] = _pool(number, kv.value)
                return
            groups = _groups(kv.value)
            one = Shard(number, int(match[2], 16), kv.mod_revision, kv.value, [groups])
            self._shards.setdefault(number, {})[one.index] = one
        except DataError as error:
            self._refuse(kv.key, Kind.POOL, number, error.message)

    def done(self) -> MapRecords:
        for number in self._infos.keys() | self._shards.keys():
            self._whole(number)
        lost = {r.number for r in self._refused if r.kind is Kind.POOL}
        pools = {n: pool for n, pool in sorted(self._infos.items()) if n not in lost}
        shards = (s for n in pools for _, s in sorted(self._shards.get(n, {}).items()))
        return MapRecords(
            self._drives, self._revisions, pools, tuple(shards), tuple(self._refused), self._stamps
        )

    def _whole(self, number: int) -> None:
        """A pool with a shard too few or too many is none that can be used."""
        if any(r.kind is Kind.POOL and r.number == number for r in self._refused):
            return
        pool, shards = self._infos.get(number), self._shards.get(number, {})
        if pool is None:
            self._refuse(keys.pool(number), Kind.POOL, number, "the pool's properties are missing")
            return
        expected = {
            start // SHARD_PGS: min(SHARD_PGS, pool.pg_count - start)
            for start in range(0, pool.pg_count, SHARD_PGS)
        }
        for index in sorted(expected.keys() | shards.keys()):
            held = len(shards[index].records()) if index in shards else None
            if held != expected.get(index):
                why = f"it holds {held or 0} placement groups instead of {expected.get(index, 0)}"
                self._refuse(keys.shard(number, index), Kind.POOL, number, why)

    def _stamp(self, kv: KeyValue) -> None:
        self._stamps[kv.key] = Stamp(kv.create_revision, kv.mod_revision, kv.version)

    def _refuse(self, key: str, kind: Kind, number: int, why: str) -> None:
        # Somebody else's key may be any bytes; as text it goes into logs and answers.
        shown = key.encode("ascii", "backslashreplace").decode()
        self._refused.append(Refused(shown, kind, number, why))


@lru_cache(DRIVES_KEPT)
def _drive(number: int, value: bytes) -> Drive:
    drive = decode(Drive, value)
    texts = (drive.node_name, drive.addr)
    try:
        UUID(drive.uuid)
        node = bytes.fromhex(drive.node)
    except ValueError as error:
        raise DataError("a drive's record has an impossible identity") from error
    sound = drive.id == number and len(node) in (0, len(UUID(int=0).bytes))
    if not sound or not 0 <= drive.nonce < U64 or any(len(t.encode()) > TEXT_MAX for t in texts):
        raise DataError("a drive's record has impossible values")
    return drive


def _pool(number: int, value: bytes) -> Pool:
    pool = decode(Pool, value)
    count = pool.pg_count
    sound = pool.id == number and 1 <= count <= PGS_MAX and count & (count - 1) == 0
    numbers = (pool.copies, pool.min_insync, pool.width)
    if not sound or not all(0 <= n <= WIDTH_MAX for n in numbers):
        raise DataError("a pool's record has impossible values")
    return pool


@lru_cache(SHARDS_KEPT)
def _groups(value: bytes) -> tuple[PgRecord, ...]:
    records = decode_shard(value)
    for record in records:
        members = list(record.members())
        if not record.insync or len(set(members)) != len(members):
            raise DataError("a placement group has no copy in sync, or one twice")
    return records


def as_last_known(now: MapRecords, last: MapRecords | None) -> MapRecords | None:
    """What can be told of drives and pools that are refused now: exactly what was read last.

    Only where that is proven to be the newest good value: the key's version is the next one after
    the one that was read, so nothing was written in between, and nothing else of the pool changed.
    None = it is not proven, and a map without them must not be told: drives would take its
    placement groups for deleted. The stamps of the answer are those of what it tells, so it can be
    ``last`` of the next question.
    """
    drives, pools, shards = dict(now.drives), dict(now.pools), list(now.shards)
    stamps, bad = dict(now.stamps), {r.key for r in now.refused}
    for kind, number in {(r.kind, r.number) for r in now.refused if r.kind is not Kind.FOREIGN}:
        prefix = keys.drive(number) if kind is Kind.DRIVE else f"{keys.POOLS}{number:04x}/"
        damaged = _below(now.stamps, prefix)
        if last is None or not _follows(damaged, _below(last.stamps, prefix), bad):
            return None
        if kind is Kind.DRIVE:
            drives |= {n: d for n, d in last.drives.items() if n == number}
        else:
            pools |= {n: p for n, p in last.pools.items() if n == number}
            shards += [s for s in last.shards if s.pool == number]
        stamps = {k: s for k, s in stamps.items() if k not in damaged}
        stamps |= _below(last.stamps, prefix)
    return MapRecords(drives, now.drive_revisions, pools, tuple(shards), now.refused, stamps)


def _below(stamps: Mapping[str, Stamp], prefix: str) -> dict[str, Stamp]:
    return {key: stamp for key, stamp in stamps.items() if key.startswith(prefix)}


def _follows(now: Mapping[str, Stamp], last: Mapping[str, Stamp], bad: set[str]) -> bool:
    if not last:
        # Nothing of the kind was there: what came since was never anything else.
        return all(key in bad and stamp.version == 1 for key, stamp in now.items())
    if now.keys() != last.keys():
        return False
    return all(
        (stamp.created, stamp.version) == (last[key].created, last[key].version + 1)
        if key in bad
        else stamp == last[key]
        for key, stamp in now.items()
    )
