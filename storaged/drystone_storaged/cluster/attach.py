"""Attach transactions: A1, A5, detach, re-adopt, tickets (§4.4). All are idempotent by nonce.

Generations rise here and in ``fence`` only. The functions named ``plan_*`` are pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from drystone_common.errors import ConflictError, InvalidArgumentError
from drystone_storaged.cluster.native import Native, TicketFields
from drystone_storaged.cluster.records import Attachment, AttachMode, AttachState, Volume
from drystone_storaged.cluster.volumes import VolumeService

GENERATION_MAX: Final = 2**32 - 1
ATTACHMENTS_MAX: Final = 64  # readers of one volume: keeps the record small
NONCE_MAX: Final = 2**64 - 1


@dataclass(frozen=True, slots=True)
class Caller:
    """The block daemon that calls: its client id (hex) and its node's name."""

    client: str
    node: str


@dataclass(frozen=True, slots=True)
class Attached:
    """What A1 or a re-adoption gives."""

    volume: Volume
    attachment: Attachment
    ticket: bytes

    @property
    def needs_recovery(self) -> bool:
        """Whether A2-A5 must run before anything is written or read."""
        return self.attachment.state is AttachState.SEALING


def gone(volume: Volume) -> ConflictError:
    """The attachment is not in the record: the caller is fenced, for good."""
    return ConflictError(
        f"this attachment of volume {volume.name} is gone",
        code="attachment_gone",
        hint="it was detached by force or fenced; attach the volume again",
    )


def find_attachment(volume: Volume, client: str, nonces: tuple[int, ...]) -> Attachment | None:
    """The client's attachment under one of these nonces."""
    return next((a for a in volume.attachments if a.client == client and a.nonce in nonces), None)


def plan_attach(volume: Volume, caller: Caller, mode: AttachMode, nonce: int) -> Volume:
    """A1: the record after it. The same record when this nonce attached already."""
    same = find_attachment(volume, caller.client, (nonce,))
    if same is not None:
        if same.mode is not mode:
            raise ConflictError("this nonce attached with another mode", code="nonce_reused")
        return volume
    _check_published(volume, caller, mode)
    others = tuple(a for a in volume.attachments if a.client != caller.client)
    writers = [a for a in others if a.mode is AttachMode.READ_WRITE]
    if writers or (others and mode is AttachMode.READ_WRITE):
        raise ConflictError(
            f"volume {volume.name} is attached at {others[0].node}",
            code="volume_attached",
            hint="detach it there first; `--force` fences it",
        )
    if len(others) >= ATTACHMENTS_MAX:
        raise ConflictError(
            f"volume {volume.name} has {ATTACHMENTS_MAX} readers already",
            code="too_many_attachments",
        )
    mine = Attachment(caller.client, caller.node, nonce, mode, AttachState.SEALING)
    replaces_writer = any(
        a.client == caller.client and a.mode is AttachMode.READ_WRITE for a in volume.attachments
    )
    if others and not replaces_writer:
        # Readers without a writer share one generation, and with it the owner's nonce.
        active = any(a.state is AttachState.ACTIVE for a in others)
        state = AttachState.ACTIVE if active else AttachState.SEALING
        return replace(volume, attachments=(*others, replace(mine, state=state)))
    return replace(
        volume,
        generation=next_generation(volume),
        owner=nonce,
        clean=volume.clean and mode is AttachMode.READ_ONLY,
        ticket_serial=1,
        attachments=(*others, mine),
    )


def _check_published(volume: Volume, caller: Caller, mode: AttachMode) -> None:
    if volume.fencing is not None and caller.node in volume.fencing.nodes:
        # The publication stays in the record until the fence is proven, but it is over.
        raise ConflictError(
            f"volume {volume.name} is being taken away from {caller.node}", code="fence_pending"
        )
    published = next((p for p in volume.publications if p.node == caller.node), None)
    writes = mode is AttachMode.READ_WRITE
    if published is None or (writes and published.mode is not AttachMode.READ_WRITE):
        raise ConflictError(
            f"volume {volume.name} is not published to {caller.node} for {mode.value}",
            code="not_published",
            hint="publish it to the node first (`drystone volume attach` and CSI do that)",
        )


def plan_activate(volume: Volume, caller: Caller, generation: int, nonce: int) -> Volume:
    """A5: only while the generation and the attachment still stand."""
    mine = find_attachment(volume, caller.client, (nonce,))
    if mine is None:
        raise gone(volume)
    if volume.generation != generation:
        raise ConflictError(
            f"volume {volume.name} has generation {volume.generation} now",
            code="generation_moved",
            hint="read the ticket again and seal with the new generation, or give up",
        )
    # Readers of one generation become active together: its recovery is done for all.
    shared = mine.mode is AttachMode.READ_ONLY
    attachments = tuple(
        replace(a, state=AttachState.ACTIVE) if a is mine or shared else a
        for a in volume.attachments
    )
    # Recovery made all copies equal, and a reader adds nothing.
    return replace(volume, attachments=attachments, clean=volume.clean or shared)


def plan_detach(volume: Volume, caller: Caller, nonce: int, *, clean: bool) -> Volume:
    """Remove the attachment; one that is gone stays gone."""
    mine = find_attachment(volume, caller.client, (nonce,))
    if mine is None:
        return volume
    ended_clean = clean and mine.state is AttachState.ACTIVE
    writes = mine.mode is AttachMode.READ_WRITE
    return replace(
        volume,
        attachments=tuple(a for a in volume.attachments if a is not mine),
        clean=ended_clean if writes else volume.clean,
    )


def plan_readopt(volume: Volume, caller: Caller, nonces: tuple[int, ...], new: int) -> Volume:
    """Prove the attachment by an old nonce, take a new one; an owner takes a new generation."""
    if find_attachment(volume, caller.client, (new,)) is not None:
        return volume
    mine = find_attachment(volume, caller.client, nonces)
    if mine is None:
        raise gone(volume)
    others = tuple(a for a in volume.attachments if a is not mine)
    if mine.mode is AttachMode.READ_ONLY:
        return replace(volume, attachments=(*others, replace(mine, nonce=new)))
    adopted = replace(mine, nonce=new, state=AttachState.SEALING)
    return replace(
        volume,
        generation=next_generation(volume),
        owner=new,
        clean=False,
        ticket_serial=1,
        attachments=(*others, adopted),
    )


def next_generation(volume: Volume) -> int:
    """The next generation; 2^32 attaches of one volume do not happen in its life."""
    if volume.generation >= GENERATION_MAX:
        raise ConflictError(
            f"volume {volume.name} ran out of generations", code="generations_exhausted"
        )
    return volume.generation + 1


class AttachService:
    """Runs the plans as transactions and makes tickets from the records they wrote."""

    def __init__(
        self, volumes: VolumeService, native: Native, master: bytes, key_epoch: int
    ) -> None:
        self._volumes = volumes
        self._native = native
        self._master = master
        self._key_epoch = key_epoch

    async def attach(self, caller: Caller, number: int, mode: AttachMode, nonce: int) -> Attached:
        """A1."""
        check_nonce(nonce)
        volume = await self._volumes.update(number, lambda v: plan_attach(v, caller, mode, nonce))
        return self._attached(volume, caller, nonce)

    async def activate(self, caller: Caller, number: int, generation: int, nonce: int) -> Volume:
        """A5."""
        return await self._volumes.update(
            number, lambda v: plan_activate(v, caller, generation, nonce)
        )

    async def detach(self, caller: Caller, number: int, nonce: int, *, clean: bool) -> Volume:
        """Give an attachment back."""
        return await self._volumes.update(
            number, lambda v: plan_detach(v, caller, nonce, clean=clean)
        )

    async def readopt(
        self, caller: Caller, number: int, nonces: tuple[int, ...], new: int
    ) -> Attached:
        """After a restart of the block daemon."""
        check_nonce(new)
        volume = await self._volumes.update(number, lambda v: plan_readopt(v, caller, nonces, new))
        return self._attached(volume, caller, new)

    async def ticket(self, caller: Caller, number: int, nonce: int) -> Attached:
        """The newest ticket of a standing attachment."""
        volume, _ = await self._volumes.get(number)
        return self._attached(volume, caller, nonce)

    def _attached(self, volume: Volume, caller: Caller, nonce: int) -> Attached:
        mine = find_attachment(volume, caller.client, (nonce,))
        if mine is None:
            raise gone(volume)
        fields = TicketFields(
            volume.ticket_serial, volume.id, volume.generation, volume.owner,
            bytes.fromhex(caller.client), mine.mode.value, volume.pool, volume.seed, volume.size,
            volume.chain, volume.parents,
        )  # fmt: skip
        sealed = self._native.seal_ticket(fields, self._master, self._key_epoch)
        return Attached(volume, mine, sealed)


def check_nonce(nonce: int) -> None:
    """Nonces are random 64-bit numbers; 0 means none."""
    if not 0 < nonce <= NONCE_MAX:
        raise InvalidArgumentError("a nonce is a random number, not 0", code="invalid_nonce")
