"""The manager's side of an attachment: grants, tickets, the activation, the return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from drystone_common.errors import DrystoneError
from drystone_storaged.agent.control import ATTACH_TIMEOUT_S, Control
from drystone_storaged.block.records import Record
from drystone_storaged.proto import control_pb2

GONE = ("attachment_gone", "volume_not_found")
"""Refusals after which this attachment can never be used again."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A record that the manager granted, and what starting the sequencer needs beside it."""

    record: Record
    map_revision: int
    needs_recovery: bool


class Grants:
    """Calls to the manager for attachments; ``nonce`` makes random ones."""

    def __init__(
        self, control: Control, save: Callable[[Record], None], nonce: Callable[[], int]
    ) -> None:
        self._control = control
        self._save = save
        self._nonce = nonce

    def new(self, record: Record) -> Record:
        """Take a fresh nonce, durably, before the manager hears of it."""
        known = replace(record, nonces=(self._nonce(),))
        self._save(known)
        return known

    async def attach(self, record: Record) -> Grant:
        """A1; repeating it with the record's nonce gives the same grant."""
        request = control_pb2.AttachRequest(
            volume=record.volume,
            mode=control_pb2.MODE_READ_ONLY if record.read_only else control_pb2.MODE_READ_WRITE,
            nonce=record.nonce,
        )
        answer = await self._control.call(
            lambda stub: stub.Attach,
            request,
            timeout_s=ATTACH_TIMEOUT_S,
            within_s=ATTACH_TIMEOUT_S,
        )
        return self._granted(record, answer)

    async def readopt(self, record: Record) -> Grant:
        """Prove the old attachment, take a new generation; waits for a manager."""
        new = self._nonce()
        old = record.nonces
        self._save(replace(record, nonces=record.tried(new)))
        request = control_pb2.ReAdoptRequest(volume=record.volume, nonces=old, new_nonce=new)
        answer = await self._control.call(
            lambda stub: stub.ReAdopt, request, timeout_s=ATTACH_TIMEOUT_S
        )
        return self._granted(replace(record, nonces=(new,)), answer)

    async def ticket(self, record: Record) -> tuple[Grant, int]:
        """The newest ticket, with its serial."""
        request = control_pb2.ReadTicketRequest(volume=record.volume, nonce=record.nonce)
        answer = await self._control.call(
            lambda stub: stub.ReadTicket, request, within_s=ATTACH_TIMEOUT_S
        )
        known = replace(
            record,
            ticket=answer.ticket,
            size_bytes=answer.size_bytes,
            generation=max(answer.generation, record.generation),
        )
        self._save(known)
        return Grant(known, 0, answer.needs_recovery), answer.ticket_serial

    async def activate(self, record: Record, generation: int) -> str:
        """A5; the outcome in the words of the native side."""
        request = control_pb2.ActivateRequest(
            volume=record.volume, generation=generation, nonce=record.nonce
        )
        try:
            await self._control.call(lambda stub: stub.Activate, request, within_s=ATTACH_TIMEOUT_S)
        except DrystoneError as error:
            superseded = (*GONE, "generation_moved", "permission_denied")
            return "superseded" if error.code in superseded else "retry"
        return "ok"

    async def detach(self, record: Record, *, clean: bool, within_s: float) -> None:
        """Give the attachment back; one that is gone is fine."""
        for nonce in record.nonces:
            request = control_pb2.DetachRequest(volume=record.volume, nonce=nonce, clean=clean)
            try:
                await self._control.call(lambda stub: stub.Detach, request, within_s=within_s)
            except DrystoneError as error:
                if error.code not in GONE:
                    raise

    def _granted(self, record: Record, answer: control_pb2.AttachResponse) -> Grant:
        known = replace(
            record,
            name=answer.name,
            generation=answer.generation,
            size_bytes=answer.size_bytes,
            ticket=answer.ticket,
        )
        self._save(known)
        return Grant(known, answer.map_revision, answer.needs_recovery)
