"""Which devices each node shall serve: a compare-and-swap on one record a node.

A device whose id is its own wherever it is plugged in (WWN, serial number) has an index beside the
record, written in the same transaction: of two nodes that both see it one may be told to use it.
"""

from __future__ import annotations

import hashlib
from typing import Final

from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidArgumentError,
    NoSpaceError,
    NotFoundError,
)
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.records import Node, WantedDrive, WantedDrives
from drystone_storaged.cluster.store import Compare, Delete, KeyValue, MetadataStore, Op, Put
from drystone_storaged.cluster.txn import read_all, retrying

DRIVES_MAX: Final = 12
"""Of one node: what a cluster is sized for, and the ports that are kept free for them."""

ID_MAX: Final = 256  # an open and the map carry no longer texts
SCHEMES: Final = ("wwn:", "serial:", "pci:", "file:")
MOVABLE: Final = ("wwn:", "serial:")
"""These name one device wherever it is; the others only on their own machine."""


def check_device(device: str) -> None:
    """Refuse what can be no device's id."""
    if not device.startswith(SCHEMES) or len(device) > ID_MAX or not _plain(device):
        raise InvalidArgumentError(
            f"{device[:80]!a} is not the id of a device",
            code="invalid_id",
            hint="`drystone node devices NODE` shows ids; they begin with wwn:, serial:, pci: or "
            "file:",
        )


def _plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def index_key(device: str) -> str | None:
    """Where the one node stands that may serve this device; None if its id is not global."""
    if not device.startswith(MOVABLE):
        return None
    return keys.device(hashlib.sha256(device.encode()).hexdigest())


class WantedService:
    """Adds and removes wanted devices; knows nothing of what servers report."""

    def __init__(self, store: MetadataStore) -> None:
        self._store = store

    async def of(self, node: str) -> tuple[WantedDrives, int]:
        """The wanted devices of a node and the revision of the record (0 = there is none)."""
        found = await self._store.get(keys.wanted(node))
        if found is None:
            return WantedDrives(node), 0
        return decode(WantedDrives, found.value), found.mod_revision

    async def holders(self) -> dict[str, str]:
        """Every wanted device whose id is global, with the uuid of its node."""
        records = await read_all(self._store, keys.WANTED, WantedDrives)
        return {
            drive.device: record.node
            for record in records
            for drive in record.drives
            if drive.device.startswith(MOVABLE)
        }

    async def add(
        self, node: Node, device: str, *, power_loss_protected: bool
    ) -> tuple[WantedDrive, bool]:
        """Want a device; False = it was wanted so already."""
        check_device(device)

        async def attempt() -> tuple[WantedDrive, bool] | None:
            record, revision = await self.of(node.uuid)
            for drive in record.drives:
                if drive.device == device:
                    _check_same(drive, power_loss_protected=power_loss_protected)
                    return drive, False
            added = WantedDrive(device, _free_slot(record, node), power_loss_protected)
            drives = tuple(sorted((*record.drives, added), key=lambda d: d.slot))
            compares, ops = await self._claim(node, device)
            done = await self._write(node, drives, revision, compares, ops)
            return (added, True) if done else None

        return await retrying(attempt, f"the drives of node {node.name}")

    async def remove(self, node: Node, device: str, conditions: tuple[Compare, ...] = ()) -> None:
        """Want a device no more; ``conditions`` void it when something moved meanwhile."""
        record, revision = await self.of(node.uuid)
        drives = tuple(d for d in record.drives if d.device != device)
        if len(drives) == len(record.drives):
            raise NotFoundError(
                f"node {node.name} has no drive on {device[:80]!a}",
                code="drive_not_found",
                hint=f"see `drystone node devices {node.name}`",
            )
        index = index_key(device)
        ops: list[Op] = [Delete(index)] if index else []
        if not await self._write(node, drives, revision, list(conditions), ops):
            raise ConflictError(
                f"the drives of node {node.name} changed meanwhile",
                code="contended",
                hint="look at them and repeat",
            )

    async def forgetting(self, node: str) -> tuple[list[Compare], list[Op]]:
        """What takes the record and its indexes away together with the node."""
        record, revision = await self.of(node)
        if not revision:
            return [], []
        indexes = (index_key(drive.device) for drive in record.drives)
        ops: list[Op] = [Delete(keys.wanted(node)), *(Delete(key) for key in indexes if key)]
        return [Compare.mod(keys.wanted(node), revision)], ops

    async def _claim(self, node: Node, device: str) -> tuple[list[Compare], list[Op]]:
        key = index_key(device)
        if key is None:
            return [], []
        found: KeyValue | None = await self._store.get(key)
        if found is not None and found.value.decode() != node.uuid:
            raise ConflictError(
                f"{device} is a drive of another node",
                code="device_used_elsewhere",
                hint="two nodes see the same device: take it out of use there first",
            )
        revision = found.mod_revision if found else 0
        return [Compare.mod(key, revision)], [Put(key, node.uuid.encode())]

    async def _write(
        self,
        node: Node,
        drives: tuple[WantedDrive, ...],
        revision: int,
        compares: list[Compare],
        ops: list[Op],
    ) -> bool:
        # With the node's own record: one that is forgotten meanwhile leaves nothing behind.
        known = await self._store.get(keys.node(node.uuid))
        if known is None:
            raise NotFoundError(
                f"there is no node {node.name}",
                code="node_not_found",
                hint="see `drystone node list`",
            )
        key = keys.wanted(node.uuid)
        done = await self._store.txn(
            [Compare.created(known.key, known.create_revision), Compare.mod(key, revision),
             *compares],
            [Put(key, encode(WantedDrives(node.uuid, drives))), *ops],
        )  # fmt: skip
        return done.succeeded


def _check_same(drive: WantedDrive, *, power_loss_protected: bool) -> None:
    if drive.power_loss_protected != power_loss_protected:
        raise AlreadyExistsError(
            f"{drive.device} is wanted with power_loss_protected = "
            f"{str(drive.power_loss_protected).lower()}",
            code="drive_exists",
            hint="take it out of use first, or ask for it as it is",
        )


def _free_slot(record: WantedDrives, node: Node) -> int:
    taken = {drive.slot for drive in record.drives}
    for slot in range(DRIVES_MAX):
        if slot not in taken:
            return slot
    raise NoSpaceError(
        f"node {node.name} has {DRIVES_MAX} wanted drives, the most there can be",
        code="too_many_drives",
        hint="take one out of use first",
    )
