"""Opening a drive is a compare-and-swap on its nonce, so that copies and old images are noticed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from drystone_common.errors import ConflictError, DataError, InvalidArgumentError, NotFoundError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.ids import IdAllocator
from drystone_storaged.cluster.records import Cluster, Drive, DriveState, Node
from drystone_storaged.cluster.store import Compare, KeyValue, MetadataStore, Put
from drystone_storaged.cluster.txn import read_all, read_record, retrying

STOPPED: Final = "the server was stopped"
"""What a server says of its drives when it ends in order."""

REMOVED: Final = "taken out of use"
"""Why a drive is down that an operator does not want any more: nothing is wrong with it."""

SERIAL_MAX: Final = 256  # device serials have under 100 characters, file identities too


class EvidenceExpiredError(ConflictError):
    """What spoke for a drop is too old, or no longer about the drive as it is now."""

    default_code = "evidence_expired"


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """What a server found in a superblock, and what it wants to write there."""

    uuid: str
    serial: str
    nonce: int
    previous_nonce: int
    capacity: int
    addr: str
    incarnation: int
    highest_revision: int
    cluster: str
    drive_class: str = ""
    device: str = ""


@dataclass(frozen=True, slots=True)
class Opened:
    """The drive, and the store's revision to be persisted with the nonce."""

    drive: Drive
    store_revision: int


class DriveService:
    """Registration, opening and state of drives."""

    def __init__(self, store: MetadataStore, ids: IdAllocator) -> None:
        self._store = store
        self._ids = ids

    async def open(
        self, node: Node, request: OpenRequest, holder_lives: Callable[[Drive], bool]
    ) -> Opened:
        """Take a drive into use under a new nonce; repeating the call with it is a success."""
        await self._check_store(request)
        if request.nonce == 0 or not request.addr or len(request.serial) > SERIAL_MAX:
            raise InvalidArgumentError("an open needs a nonce, an address and a short serial")

        async def attempt() -> Opened | None:
            index = await self._store.get(keys.name("drive", request.uuid))
            if index is None:
                return await self._add(node, request)
            found = await read_record(self._store, keys.drive(int(index.value)), Drive)
            if found is None:
                raise DataError("the metadata store lost a drive's record", code="store_damaged")
            return await self._reopen(node, request, *found, holder_lives)

        return await retrying(attempt, f"drive {request.uuid}")

    async def _check_store(self, request: OpenRequest) -> None:
        cluster = await read_record(self._store, keys.CLUSTER, Cluster)
        incarnation = await self._store.get(keys.INCARNATION)
        revision = await self._store.revision()
        if cluster is None or request.cluster != cluster[0].uuid:
            raise DataError(
                "the drive belongs to another cluster",
                code="wrong_cluster",
                hint="remove it, or format it anew if its data is not needed",
            )
        ours = int(incarnation.value) if incarnation else 1
        if request.incarnation > ours or (
            request.incarnation == ours and request.highest_revision > revision
        ):
            raise DataError(
                "the drive has seen a newer metadata store than this one",
                code="store_too_old",
                hint="the store is an older one, such as a restored backup: stop the manager and "
                "put the newest store back; an old one hands numbers out again that are in use",
            )

    async def _add(self, node: Node, request: OpenRequest) -> Opened | None:
        if request.previous_nonce:
            raise DataError(
                "the drive was in use, but this cluster does not know it",
                code="drive_unknown",
                hint="format it anew if its data is not needed",
            )
        number = await self._ids.take("drive")
        drive = Drive(
            number, request.uuid, node.uuid, node.name, request.serial, request.capacity,
            request.addr, request.nonce, weight=request.capacity / 2**40,
            drive_class=request.drive_class, device=request.device,
        )  # fmt: skip
        done = await self._store.txn(
            [Compare.absent(keys.name("drive", request.uuid)), Compare.absent(keys.drive(number))],
            [
                Put(keys.name("drive", request.uuid), str(number).encode()),
                Put(keys.drive(number), encode(drive)),
            ],
        )
        return Opened(drive, done.revision) if done.succeeded else None

    async def _reopen(
        self,
        node: Node,
        request: OpenRequest,
        drive: Drive,
        stored: KeyValue,
        holder_lives: Callable[[Drive], bool],
    ) -> Opened | None:
        if request.nonce == drive.nonce and drive.node == node.uuid:
            return Opened(drive, await self._store.revision())
        _check_reopen(node, request, drive, holder_lives)
        # Until the new nonce is reported to be on the drive, the confirmed one stays valid.
        confirmed = drive.previous_nonce or (drive.nonce if drive.proven else 0)
        opened = replace(
            drive, node=node.uuid, node_name=node.name, capacity=request.capacity,
            addr=request.addr, nonce=request.nonce, state=DriveState.DOWN, reason="", ended=False,
            previous_nonce=confirmed, weight=request.capacity / 2**40, device=request.device,
            drive_class=request.drive_class or drive.drive_class,
        )  # fmt: skip
        if request.previous_nonce == drive.nonce:
            opened = replace(opened, previous_nonce=drive.nonce)
        done = await self._store.txn(
            [Compare.mod(stored.key, stored.mod_revision)], [Put(stored.key, encode(opened))]
        )
        return Opened(opened, done.revision) if done.succeeded else None

    async def report(
        self, node: Node, number: int, nonce: int, state: DriveState, why: str
    ) -> Drive:
        """Record that a drive is ready (up) or not (down); void for another open of it."""

        async def attempt() -> Drive | None:
            found = await read_record(self._store, keys.drive(number), Drive)
            drive = self._own(node, number, nonce, found[0] if found else None)
            if found is None:
                return None
            previous = 0 if state is DriveState.UP else drive.previous_nonce
            new = replace(
                drive, state=state, reason=why[:200], previous_nonce=previous,
                proven=drive.proven or state is DriveState.UP, ended=state is not DriveState.UP,
            )  # fmt: skip
            if new == drive:
                return drive
            done = await self._store.txn(
                [Compare.mod(found[1].key, found[1].mod_revision)], [Put(found[1].key, encode(new))]
            )
            return new if done.succeeded else None

        return await retrying(attempt, f"drive {number}")

    async def check(self, node: Node, number: int, nonce: int) -> Drive:
        """The drive, if this node holds it under this nonce."""
        found = await read_record(self._store, keys.drive(number), Drive)
        return self._own(node, number, nonce, found[0] if found else None)

    def _own(self, node: Node, number: int, nonce: int, drive: Drive | None) -> Drive:
        if drive is None:
            raise NotFoundError(f"there is no drive {number}", code="drive_not_found")
        if drive.node != node.uuid or drive.nonce != nonce or drive.state is DriveState.GONE:
            raise ConflictError(
                f"drive {number} was opened again since, or elsewhere",
                code="drive_nonce_stale",
                hint="stop serving it and open it anew",
            )
        return drive

    async def holds(self, node: Node, number: int, nonce: int) -> Compare:
        """Like ``check``, as a condition for a transaction."""
        found = await read_record(self._store, keys.drive(number), Drive)
        self._own(node, number, nonce, found[0] if found else None)
        return Compare.mod(keys.drive(number), found[1].mod_revision if found else 0)

    async def set_down(
        self, observed: Mapping[int, int], why: str, *, ended: bool
    ) -> list[Compare]:
        """Record that drives do not serve; ``observed`` is each record's revision at that time.

        ``ended``: see ``Drive``; only for proofs that need no wait.

        Gives conditions for the drop that follows: nobody opened them or reported them ready
        since. ``EvidenceExpiredError`` when somebody did already.
        """
        return [await self._set_down(n, observed[n], why, ended) for n in sorted(observed)]

    async def _set_down(self, number: int, revision: int, why: str, ended: bool) -> Compare:
        key = keys.drive(number)
        found = await read_record(self._store, key, Drive)
        if found is None or found[1].mod_revision != revision:
            raise EvidenceExpiredError(f"drive {number} changed since it was looked at")
        if found[0].state is not DriveState.UP:
            return Compare.mod(key, revision)
        new = replace(found[0], state=DriveState.DOWN, reason=why[:200], ended=ended)
        done = await self._store.txn([Compare.mod(key, revision)], [Put(key, encode(new))])
        if not done.succeeded:
            raise EvidenceExpiredError(f"drive {number} changed since it was looked at")
        return Compare.mod(key, done.revision)

    async def list(self) -> list[Drive]:
        """Every drive, gone ones included."""
        return await read_all(self._store, keys.DRIVES, Drive)

    async def find(self, which: str) -> Drive:
        """A drive by number or uuid."""
        number = 0
        if keys.nameable(which):
            index = await self._store.get(keys.name("drive", which))
            # Ids have at most ten digits; a longer number is no id.
            decimal = which.isdecimal() and len(which) <= len(str(2**32))
            number = int(index.value) if index else int(which) if decimal else 0
        found = await self._store.get(keys.drive(number))
        if found is None:
            raise NotFoundError(
                f"there is no drive {which[:80]!a}",
                code="drive_not_found",
                hint="see `drystone drive list`",
            )
        return decode(Drive, found.value)


def _check_reopen(
    node: Node, request: OpenRequest, drive: Drive, holder_lives: Callable[[Drive], bool]
) -> None:
    if drive.state is DriveState.GONE:
        raise ConflictError(
            f"drive {drive.id} was removed from the cluster",
            code="drive_forgotten",
            hint="wipe it or remove the file: its server then makes a new drive there",
        )
    if request.serial != drive.serial:
        raise ConflictError(
            f"drive {drive.id} is known on another device: this is a copy of it",
            code="drive_serial_mismatch",
            hint="use the original; if that is lost for good, "
            f"`drystone drive forget {drive.id} --yes`, then remove this copy: "
            "its server makes a new drive there",
        )
    if drive.node != node.uuid and holder_lives(drive):
        raise ConflictError(
            f"drive {drive.id} is open on {drive.node_name}",
            code="drive_held",
            hint="stop the server there; one that went without a word counts for some seconds as "
            "one that comes back, and for as long as something answers at its address",
        )
    blank = request.previous_nonce == 0 and not drive.proven
    if not blank and request.previous_nonce not in {drive.nonce, drive.previous_nonce} - {0}:
        raise ConflictError(
            f"drive {drive.id} holds an older state than the cluster has seen of it",
            code="drive_nonce_stale",
            hint="it is an old image or a copy, use the newest; where that is lost for good, "
            f"`drystone drive forget {drive.id} --yes`, then remove this one",
        )
