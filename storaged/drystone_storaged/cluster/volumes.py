"""Volumes: create by name, resize, content, delete; attaching and fencing have own modules."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NotFoundError,
)
from drystone_common.ids import format_id, parse_id, parse_name
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.ids import IdAllocator
from drystone_storaged.cluster.pools import PoolService
from drystone_storaged.cluster.records import (
    ChainLink,
    Content,
    ContentState,
    Layer,
    LayerState,
    Order,
    Pool,
    Volume,
)
from drystone_storaged.cluster.store import Compare, Delete, KeyValue, MetadataStore, Op, Put
from drystone_storaged.cluster.txn import read_record, retrying

BLOCK: Final = 4096
SIZE_MAX: Final = 64 << 40  # block numbers of a volume fit 34 bits
ATTRIBUTES_MAX: Final = 16
ATTRIBUTE_KEY_MAX: Final = 63
ATTRIBUTE_BYTES_MAX: Final = 1024  # with 16 of them a record stays far below the store's limits
CONTENT_TEXT_MAX: Final = 64  # a file system type; a random nonce in hex
CSI_NAME: Final = "csi.name"


@dataclass(frozen=True, slots=True)
class VolumeSpec:
    """What a volume shall be."""

    name: str
    size: int
    pool: str = "default"
    attributes: Mapping[str, str] = field(default_factory=dict)


def volume_missing(which: str) -> NotFoundError:
    """The error for a volume that is not there."""
    return NotFoundError(
        f"there is no volume {which[:80]!a}",
        code="volume_not_found",
        hint="see `drystone volume list`",
    )


class VolumeService:
    """Transactions on volume records."""

    def __init__(self, store: MetadataStore, ids: IdAllocator, pools: PoolService) -> None:
        self._store = store
        self._ids = ids
        self._pools = pools

    async def create(self, spec: VolumeSpec) -> tuple[Volume, bool]:
        """Make a volume; (volume, False) if it is there with the same properties."""
        check_size(spec.size)
        check_attributes(spec.attributes)
        parse_name(spec.name, "volume name")
        pool, conditions = await self._pools.for_volume(spec.pool)
        existing = await self._existing(spec, pool)
        if existing is not None:
            return existing, False
        volume, layer = await self._new(spec, pool)
        index = keys.name("volume", spec.name)
        ops: list[Op] = [
            Put(index, format_id(volume.id).encode()),
            Put(keys.volume(volume.id), encode(volume)),
            Put(keys.layer(layer.id), encode(layer)),
            Put(keys.pool_use(pool.id), format_id(volume.id).encode()),
        ]
        csi = _csi_key(volume)
        if csi:
            ops.append(Put(csi, format_id(volume.id).encode()))
        done = await self._store.txn([Compare.absent(index), *conditions], ops)
        if done.succeeded:
            return volume, True
        existing = await self._existing(spec, pool)
        if existing is None:
            raise ConflictError(
                f"volume {spec.name} or pool {spec.pool} is being deleted; try again",
                code="contended",
            )
        return existing, False

    async def _new(self, spec: VolumeSpec, pool: Pool) -> tuple[Volume, Layer]:
        number, layer_id = await self._ids.take("object"), await self._ids.take("object")
        # The seed spreads chunks over PGs; it is no secret, only different for each lineage.
        seed = secrets.randbits(64)
        volume = Volume(
            number, spec.name, pool.id, spec.size, seed, (ChainLink(layer_id),),
            attributes=dict(spec.attributes),
        )  # fmt: skip
        return volume, Layer(layer_id, number, pool.id, seed, spec.size, LayerState.HEAD)

    async def _existing(self, spec: VolumeSpec, pool: Pool) -> Volume | None:
        index = await self._store.get(keys.name("volume", spec.name))
        found = (
            await read_record(self._store, keys.volume(int(index.value, 16)), Volume)
            if index
            else None
        )
        if found is None:
            return None
        volume = found[0]
        if (volume.size, volume.pool, volume.attributes) != (
            spec.size,
            pool.id,
            dict(spec.attributes),
        ):
            other = (
                f"{volume.size} bytes, not {spec.size}"
                if volume.size != spec.size
                else "another pool or other attributes"
            )
            raise AlreadyExistsError(
                f"volume {spec.name} exists with {other}",
                code="volume_exists",
                hint=f"see `drystone volume show {spec.name}`, or choose another name",
            )
        return volume

    async def find(self, which: str) -> Volume:
        """A volume by id (16 hex digits) or name."""
        number = await self.resolve(which)
        found = await self._store.get(keys.volume(number))
        if found is None:
            raise volume_missing(which)
        return decode(Volume, found.value)

    async def resolve(self, which: str) -> int:
        """The id for an id or a name; an id is not looked up."""
        if keys.nameable(which):
            index = await self._store.get(keys.name("volume", which))
            if index is not None:
                return int(index.value, 16)
            with contextlib.suppress(InvalidArgumentError):
                return parse_id(which)
        raise volume_missing(which)

    async def get(self, number: int) -> tuple[Volume, KeyValue]:
        """A volume by number, with its revisions."""
        found = await read_record(self._store, keys.volume(number), Volume)
        if found is None:
            raise volume_missing(f"{number:016x}")
        return found

    async def list(self, after: int, limit: int) -> tuple[Sequence[Volume], bool]:
        """A page of volumes by id, beginning after one; and whether there are more."""
        start = keys.volume(after) if after else ""
        page = await self._store.range(keys.VOLUMES, after=start, limit=limit)
        return [decode(Volume, kv.value) for kv in page.items], page.more

    async def update(self, number: int, change: Callable[[Volume], Volume]) -> Volume:
        """Compare-and-swap one record; ``change`` may run several times and may raise."""

        async def attempt() -> Volume | None:
            volume, stored = await self.get(number)
            new = change(volume)
            if new == volume:
                return volume
            done = await self._store.txn(
                [Compare.mod(stored.key, stored.mod_revision)], [Put(stored.key, encode(new))]
            )
            return new if done.succeeded else None

        return await retrying(attempt, f"volume {number:016x}")

    async def resize(self, number: int, size: int) -> Volume:
        """Grow a volume; equal is success. The ticket's serial rises with it."""
        check_size(size)

        def change(volume: Volume) -> Volume:
            if size < volume.size:
                raise ConflictError(
                    f"volume {volume.name} has {volume.size} bytes and cannot become smaller",
                    code="size_shrink",
                    hint="make a smaller volume and copy the data",
                )
            if size == volume.size:
                return volume
            return replace(volume, size=size, ticket_serial=volume.ticket_serial + 1)

        return await self.update(number, change)

    async def set_content(self, number: int, expect: Content, to: Content) -> Volume:
        """Compare-and-swap the content state; only forwards. Repeating it is a success."""
        check_content(expect)
        check_content(to)

        def change(volume: Volume) -> Volume:
            if volume.content == to:
                return volume
            if volume.content != expect:
                raise ConflictError(
                    f"the content of volume {volume.name} is {volume.content.state.value} now",
                    code="content_conflict",
                    hint="read the volume again",
                )
            if to.state not in _FOLLOWS[expect.state]:
                raise InvalidArgumentError(
                    f"content cannot go from {expect.state.value} to {to.state.value}",
                    code="content_transition",
                )
            return replace(volume, content=to)

        return await self.update(number, change)

    async def delete(self, number: int) -> None:
        """Remove a volume; its layers are freed by an order, also on drives that are away now."""

        async def attempt() -> bool | None:
            volume, stored = await self.get(number)
            if volume.publications or volume.attachments or volume.fencing:
                raise ConflictError(
                    f"volume {volume.name} is in use",
                    code="volume_in_use",
                    hint=f"detach it first; `drystone volume show {volume.name}` says where it is",
                )
            ops: list[Op] = [Delete(stored.key), Delete(keys.name("volume", volume.name))]
            csi = _csi_key(volume)
            if csi:
                ops.append(Delete(csi))
            compares = [Compare.mod(stored.key, stored.mod_revision)]
            for link in volume.chain:
                absent, puts = await self._free(volume, link.layer)
                compares.append(absent)
                ops += puts
            done = await self._store.txn(compares, ops)
            return True if done.succeeded else None

        await retrying(attempt, f"volume {number:016x}")

    async def _free(self, volume: Volume, layer_id: int) -> tuple[Compare, Sequence[Op]]:
        """What frees a layer, unless the order's number is taken: that one is carried out first."""
        found = await read_record(self._store, keys.layer(layer_id), Layer)
        layer = found[0] if found else Layer(
            layer_id, volume.id, volume.pool, volume.seed, volume.size, LayerState.HEAD
        )  # fmt: skip
        number = await self._ids.take("order")
        key = keys.order(volume.pool, number)
        return Compare.absent(key), [
            Put(keys.layer(layer_id), encode(replace(layer, state=LayerState.DELETED))),
            Put(key, encode(Order(number, volume.pool, layer_id))),
        ]


_FOLLOWS: Final = {
    ContentState.NEVER: {ContentState.FORMATTING, ContentState.RAW, ContentState.FS},
    # Formatting again takes over from a node that crashed inside mkfs: another nonce.
    ContentState.FORMATTING: {ContentState.FORMATTING, ContentState.FS},
    ContentState.FS: set[ContentState](),
    ContentState.RAW: set[ContentState](),
}


def check_content(content: Content) -> None:
    """State, fs and nonce must fit together."""
    needs_fs = content.state in (ContentState.FORMATTING, ContentState.FS)
    needs_nonce = content.state is ContentState.FORMATTING
    for value, needed, what in (
        (content.fs, needs_fs, "fs"),
        (content.nonce, needs_nonce, "nonce"),
    ):
        if (value is not None) != needed or (
            value is not None and not 1 <= len(value) <= CONTENT_TEXT_MAX
        ):
            raise InvalidArgumentError(
                f"content {content.state.value} must have {what} if and only if it applies",
                code="invalid_content",
            )


def check_size(size: int) -> None:
    """Sizes are whole blocks within the engine's limit."""
    if not BLOCK <= size <= SIZE_MAX or size % BLOCK:
        raise InvalidArgumentError(
            f"{size} is not a possible size of a volume",
            code="size_out_of_range",
            hint=f"use a multiple of {BLOCK} bytes, from {BLOCK} to {SIZE_MAX}",
        )


def check_attributes(attributes: Mapping[str, str]) -> None:
    """Bounds, so that a record stays small."""
    good = len(attributes) <= ATTRIBUTES_MAX and all(
        1 <= len(key) <= ATTRIBUTE_KEY_MAX
        and len(value.encode("utf-8", "replace")) <= ATTRIBUTE_BYTES_MAX
        for key, value in attributes.items()
    )
    if not good:
        raise InvalidArgumentError(
            f"a volume has at most {ATTRIBUTES_MAX} attributes,"
            f" keys of 1 to {ATTRIBUTE_KEY_MAX} characters,"
            f" values up to {ATTRIBUTE_BYTES_MAX} bytes",
            code="invalid_attributes",
        )


def _csi_key(volume: Volume) -> str | None:
    if not volume.name.startswith("csi-") or CSI_NAME not in volume.attributes:
        return None
    return keys.name("csi", volume.name.removeprefix("csi-"))
