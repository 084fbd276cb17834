"""What the control plane needs of the engine: byte formats, keys, placement.

Tickets and keys are made here, in Python, and a test compares them with the extension byte by
byte; the placement is the extension's alone.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import drystone_native
from drystone_common.errors import ConflictError
from drystone_storaged.cluster.binary import Writer
from drystone_storaged.cluster.placement import PlacementSpec
from drystone_storaged.cluster.records import ChainLink, ParentLink

TICKET_MODES: Final = {"rw": 0, "ro": 1, "snapshot": 2, "service": 3}


@dataclass(frozen=True, slots=True)
class TicketFields:
    """Crate ``types``, ``Ticket``: what servers check every request of an attachment against."""

    serial: int
    vol: int
    generation: int
    nonce: int
    client: bytes
    mode: str
    pool: int
    seed: int
    size: int
    chain: tuple[ChainLink, ...]
    parents: tuple[ParentLink, ...] = ()


class Native(Protocol):
    """The seam; see the module."""

    def seal_ticket(self, ticket: TicketFields, master: bytes, key_epoch: int) -> bytes:
        """Encode and sign a ticket with the key of tickets."""

    def role_key(self, master: bytes, role: str, uuid: bytes, key_epoch: int) -> bytes:
        """Derive a peer's key."""

    def place_pool(self, spec: PlacementSpec) -> Sequence[tuple[int, ...]]:
        """Give each PG its drives, in order of preference."""


class ExtensionNative:
    """``Native`` of production; tests put nothing else in its place."""

    def seal_ticket(self, ticket: TicketFields, master: bytes, key_epoch: int) -> bytes:
        """Encode and sign a ticket."""
        out = Writer().u8(1).u32(key_epoch).u32(ticket.serial).u64(ticket.vol)
        out.u32(ticket.generation).u64(ticket.nonce).raw(ticket.client)
        out.u8(TICKET_MODES[ticket.mode]).u16(ticket.pool).u64(ticket.seed).u64(ticket.size)
        out.u32(len(ticket.chain))
        for link in ticket.chain:
            out.u64(link.layer).u32(link.cut_generation).u64(link.cut_seq)
        out.u32(len(ticket.parents))
        for parent in ticket.parents:
            out.u64(parent.lineage).u64(parent.layer).u32(parent.cut_generation)
            out.u64(parent.cut_seq).u64(parent.size).u64(parent.seed).u16(parent.pool)
        body = bytes(out.out)
        key = _hmac(master, b"ticket\0" + key_epoch.to_bytes(4, "little"))
        return body + _hmac(key, body)

    def role_key(self, master: bytes, role: str, uuid: bytes, key_epoch: int) -> bytes:
        """Derive a peer's key."""
        return _hmac(master, role.encode() + b"\0" + uuid + key_epoch.to_bytes(4, "little"))

    def place_pool(self, spec: PlacementSpec) -> Sequence[tuple[int, ...]]:
        """Give each PG its drives; domains travel as fault sets."""
        if not spec.drives:
            raise ConflictError(
                "no drive is available for the pool",
                code="no_drives",
                hint="start storage servers and wait until `drystone drive list` shows drives up",
            )
        drives = [
            {"id": d.id, "weight": d.weight, "fault_set": d.domain, "node": d.domain}
            for d in spec.drives
        ]
        wanted = {
            "drives": drives, "pg_count": spec.pg_count, "copies": spec.copies,
            "domain": "fault-set", "salt": spec.pool,
        }  # fmt: skip
        if spec.current:
            wanted |= {"current": spec.current, "closed": spec.closed}
        placed = json.loads(drystone_native.place_pool(json.dumps(wanted)))
        return [tuple(pg) for pg in placed["pgs"]]


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.new(key, message, hashlib.sha256).digest()


NATIVE: Final[Native] = ExtensionNative()
