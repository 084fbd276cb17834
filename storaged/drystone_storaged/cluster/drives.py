"""Opening a drive is a compare-and-swap on its nonce, so that copies and old images are noticed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from drystone_common.errors import ConflictError, DataError, InvalidArgumentError, NotFoundError
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.codec import decode, encode
from drystone_storaged.cluster.health import Blow
from drystone_storaged.cluster.ids import IdAllocator
from drystone_storaged.cluster.maprecords import read_drives
from drystone_storaged.cluster.records import Cluster, Drive, DriveHealth, DriveState, Node
from drystone_storaged.cluster.store import Compare, KeyValue, MetadataStore, Op, Put
from drystone_storaged.cluster.txn import read_record, retrying

STOPPED: Final = "the server was stopped"
"""What a server says of its drives when it ends in order."""

REMOVED: Final = "taken out of use"
"""Why a drive is down that an operator does not want any more: nothing is wrong with it."""

HELD: Final = "it was slow or hung, and has to pass a test before it serves again"
EJECTED: Final = "ejected: it was slow or hung too often"

GRANTED_MAX: Final = 16  # opens in a row of which no report came: each waits seconds for its call
SERIAL_MAX: Final = 256  # device serials have under 100 characters, file identities too


DOWN_PER_TXN: Final = 100
"""More drives than a machine has; etcd takes 128 operations."""


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
                hint="the store is an older one, such as a restored backup: stop the managers and "
                "put the newest store back; an old one hands numbers out again that are in use. "
                "Where there is no newer one: `drystone recover metadata`",
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
        if request.previous_nonce in (drive.nonce, *drive.granted_nonces):
            # It is on the drive: what was there before is an older state from here on.
            opened = replace(opened, previous_nonce=request.previous_nonce, granted_nonces=())
        elif drive.nonce != confirmed:
            granted = (*drive.granted_nonces, drive.nonce)[-GRANTED_MAX:]
            opened = replace(opened, granted_nonces=granted)
        done = await self._store.txn(
            [Compare.mod(stored.key, stored.mod_revision)], [Put(stored.key, encode(opened))]
        )
        return Opened(opened, done.revision) if done.succeeded else None

    async def report(
        self,
        node: Node,
        number: int,
        nonce: int,
        state: DriveState,
        why: str,
        *,
        needed: bool = False,
    ) -> Drive:
        """Record that a drive is ready (up) or not (down); void for another open of it.

        One that was dropped because it was slow is ready and stays down until it passed its test;
        not where it is ``needed``, because it could not be dropped: nobody waits for a test then.
        """
        ready = state is DriveState.UP

        async def attempt() -> Drive | None:
            found = await read_record(self._store, keys.drive(number), Drive)
            drive = self._own(node, number, nonce, found[0] if found else None)
            if found is None:
                return None
            # Read after the drive: a drop writes both, and voids what was read before it.
            held = await self._held(number) if ready and not needed else ""
            new = replace(
                drive, state=DriveState.DOWN if held else state, reason=held or why[:200],
                previous_nonce=0 if ready else drive.previous_nonce,
                granted_nonces=() if ready else drive.granted_nonces,
                proven=drive.proven or ready, ended=not ready,
            )  # fmt: skip
            if new == drive:
                return drive
            done = await self._store.txn(
                [Compare.mod(found[1].key, found[1].mod_revision)], [Put(found[1].key, encode(new))]
            )
            return new if done.succeeded else None

        return await retrying(attempt, f"drive {number}")

    async def _held(self, number: int) -> str:
        """Why a drive may not be up yet; empty if it may."""
        found = await read_record(self._store, keys.health(number), DriveHealth)
        if found is None or not found[0].out:
            return ""
        return EJECTED if found[0].ejected else HELD

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
        self, observed: Mapping[int, int], why: str, *, ended: bool, blow: Blow | None = None
    ) -> list[Compare]:
        """Record that drives do not serve; ``observed`` is each record's revision at that time.

        ``ended``: see ``Drive``; only for proofs that need no wait. ``blow`` is written with it.

        Gives conditions for the drop that follows: nobody opened them or reported them ready
        since. ``EvidenceExpiredError`` when somebody did already.
        """
        conditions: list[Compare] = []
        numbers = sorted(observed)
        for start in range(0, len(numbers), DOWN_PER_TXN):
            group = {n: observed[n] for n in numbers[start : start + DOWN_PER_TXN]}
            conditions += await self._set_down(group, why, ended, blow)
        return conditions

    async def _set_down(
        self, observed: Mapping[int, int], why: str, ended: bool, blow: Blow | None
    ) -> list[Compare]:
        """In one transaction: a node's loss is one change of the map, not one for each drive."""
        revisions = {keys.drive(number): revision for number, revision in observed.items()}
        changes: list[Op] = []
        for key, revision in revisions.items():
            found = await read_record(self._store, key, Drive)
            if found is None or found[1].mod_revision != revision:
                raise _changed(key)
            if found[0].state is DriveState.UP:
                new = replace(found[0], state=DriveState.DOWN, reason=why[:200], ended=ended)
                changes.append(Put(key, encode(new)))
        if changes:
            compares = [Compare.mod(change.key, revisions[change.key]) for change in changes]
            strike = ([], []) if blow is None else ([blow.condition], [blow.put])
            done = await self._store.txn([*compares, *strike[0]], [*changes, *strike[1]])
            if not done.succeeded:
                raise _changed(", ".join(change.key for change in changes))
            revisions |= {change.key: done.revision for change in changes}
        return [Compare.mod(key, revision) for key, revision in revisions.items()]

    async def set_evacuating(self, number: int, *, wanted: bool) -> Drive:
        """Record that a drive shall be emptied, or shall be no longer."""

        async def attempt() -> Drive | None:
            found = await read_record(self._store, keys.drive(number), Drive)
            if found is None or found[0].state is DriveState.GONE:
                raise NotFoundError(f"there is no drive {number}", code="drive_not_found")
            new = replace(found[0], evacuating=wanted)
            if new == found[0]:
                return new
            done = await self._store.txn(
                [Compare.mod(found[1].key, found[1].mod_revision)], [Put(found[1].key, encode(new))]
            )
            return new if done.succeeded else None

        return await retrying(attempt, f"drive {number}")

    async def list(self) -> list[Drive]:
        """Every drive that can be read, gone ones included."""
        return (await read_drives(self._store))[0]

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


def _changed(what: str) -> EvidenceExpiredError:
    return EvidenceExpiredError(f"{what} changed since it was looked at")


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
    known = {drive.nonce, drive.previous_nonce, *drive.granted_nonces} - {0}
    if not blank and request.previous_nonce not in known:
        raise ConflictError(
            f"drive {drive.id} holds an older state than the cluster has seen of it",
            code="drive_nonce_stale",
            hint="it is an old image or a copy, use the newest; where that is lost for good, "
            f"`drystone drive forget {drive.id} --yes`, then remove this one",
        )
