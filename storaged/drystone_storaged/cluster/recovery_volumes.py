"""Volumes of a recovered store: fenced, raised, found again or deleted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from drystone_storaged.cluster.attach import GENERATION_MAX
from drystone_storaged.cluster.records import (
    ChainLink,
    Content,
    ContentState,
    Fencing,
    Layer,
    LayerState,
    Order,
    Volume,
)
from drystone_storaged.cluster.scans import ScannedDrive, ScannedTicket, ScannedVolume
from drystone_storaged.cluster.volumes import BLOCK, SIZE_MAX

GENERATION_GAP: Final = 1 << 12
"""A generation may have been given to a client whose seals reached no drive that was scanned."""

ORDER_GAP: Final = 1_000  # orders leave no trace on drives, and ids are taken by the thousand


@dataclass(frozen=True, slots=True)
class VolumePlan:
    """``volumes``: every record as it goes on. ``found``: those the store did not know."""

    volumes: tuple[Volume, ...] = ()
    found: tuple[Volume, ...] = ()
    deleted: tuple[Volume, ...] = ()
    layers: tuple[Layer, ...] = ()
    orders: tuple[Order, ...] = ()
    notes: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    highest_id: int = 0


@dataclass(frozen=True, slots=True)
class _Seen:
    """A volume as all drives together know it."""

    generation: int = 0
    ticket: ScannedTicket | None = None
    layers: frozenset[int] = frozenset()
    end_block: int = 0

    def with_(self, one: ScannedVolume) -> _Seen:
        tickets = [t for t in (self.ticket, one.ticket) if t is not None]
        newest = max(tickets, key=lambda t: (t.generation, t.serial, t.size), default=None)
        return _Seen(
            max(self.generation, one.generation),
            newest,
            self.layers | frozenset(one.layers),
            max(self.end_block, one.end_block),
        )

    @property
    def ids(self) -> frozenset[int]:
        return self.layers | frozenset(self.ticket.chain if self.ticket else ())


@dataclass(frozen=True, slots=True)
class Records:
    """What the store says of volumes."""

    volumes: tuple[Volume, ...]
    layers: Mapping[int, Layer]
    orders: tuple[Order, ...]
    pools: frozenset[int]
    next_order: int = 1
    given_up: bool = False
    """Whether drives are: what they held is not seen."""


def plan_volumes(records: Records, drives: tuple[ScannedDrive, ...], nonce: int) -> VolumePlan:
    """Raise what is known, find what is not, delete what was deleted since."""
    volumes, layers = records.volumes, records.layers
    seen = _merged(drives)
    freed = frozenset(layer for d in drives for layer in d.freed)
    deleting = frozenset(i for i, layer in layers.items() if layer.state is LayerState.DELETED)
    deleted = tuple(v for v in volumes if v.head in freed)
    kept = tuple(v for v in volumes if v.head not in freed)
    notes = [f"volume {v.name} was deleted after the copy: its record goes" for v in deleted]
    refusals: list[str] = []
    raised: list[Volume] = []
    for volume in kept:
        one = seen.get(volume.id, _Seen())
        new, note, refusal = _raise(volume, one, nonce)
        content = content_after(volume, one, given_up=records.given_up)
        if content.state is ContentState.RAW and volume.content.state is not content.state:
            notes.append(_not_formatted(volume))
        raised.append(replace(new, content=content))
        notes += [note] if note else []
        refusals += [refusal] if refusal else []
    known = {v.id for v in volumes}
    found: list[Volume] = []
    over = freed | deleting
    for number, one in sorted(seen.items()):
        if number in known or one.ids & over or not one.layers:
            continue  # of the last kind: attached once and never written
        volume_or_none, what = _find(number, one, records.pools, nonce)
        found += [volume_or_none] if volume_or_none is not None else []
        notes.append(what)
    ids = [*known, *layers, *seen, *(layer for one in seen.values() for layer in one.ids)]
    gone, again = _orders(records, deleted, seen, freed, known)
    # A recovery that was cut short may have left a volume without it.
    heads = [_head(v) for v in (*raised, *found) if v.head not in layers]
    return VolumePlan(
        tuple(raised),
        tuple(found),
        deleted,
        (*heads, *gone),
        again,
        tuple(notes),
        tuple(refusals),
        max([0, *ids]),
    )


def _merged(drives: tuple[ScannedDrive, ...]) -> dict[int, _Seen]:
    seen: dict[int, _Seen] = {}
    for drive in drives:
        for volume in drive.volumes:
            seen[volume.volume] = seen.get(volume.volume, _Seen()).with_(volume)
    return seen


def content_after(volume: Volume, seen: _Seen, *, given_up: bool) -> Content:
    """What the volume holds, as far as formatting goes: nothing that may be there is formatted.

    A copy that was made before or amid a format says so for ever, and the consumer would format
    what was used since. Raw is what nobody formats, and a file system that is there is still
    mounted. Never is safe where no drive saw anything: whoever formats looks whether it is blank.
    """
    state = volume.content.state
    if state not in {ContentState.NEVER, ContentState.FORMATTING}:
        return volume.content
    # Drives that were given up may have held what a volume was used for that others saw attached.
    used = bool(seen.layers or seen.end_block) or (given_up and seen.generation > 0)
    if state is ContentState.FORMATTING:
        # What formats is attached: other generations are of somebody later, or were seen nowhere.
        used = used or seen.generation != volume.generation
    return Content(ContentState.RAW if used else ContentState.NEVER)


def _not_formatted(volume: Volume) -> str:
    was = "in a format" if volume.content.state is ContentState.FORMATTING else "never formatted"
    return (
        f"volume {volume.name} was {was} in the copy and may hold data since: it is not formatted "
        "again, a file system that is there is used; if it is blank, make a new volume"
    )


def _raise(volume: Volume, seen: _Seen, nonce: int) -> tuple[Volume, str, str]:
    """The record with nobody attached and a generation above all: whoever attaches seals it."""
    generation = max(volume.generation, seen.generation) + GENERATION_GAP
    if generation >= GENERATION_MAX:
        return volume, "", f"volume {volume.name} ran out of generations"
    ticket = seen.ticket
    size = max(volume.size, ticket.size if ticket else 0)
    new = replace(
        volume,
        size=size,
        generation=generation,
        owner=nonce,
        clean=False,
        ticket_serial=max(volume.ticket_serial, ticket.serial if ticket else 0) + 1,
        attachments=(),
        next_head=None,
        # Nobody is proven to be shut out: an unpublish or a fence waits for the drives.
        fencing=Fencing(generation, volume.fencing.nodes if volume.fencing else ()),
    )
    if size > volume.size:
        return new, f"volume {volume.name} grew to {size} bytes after the copy", ""
    if volume.generation and not seen.generation and not seen.layers:
        return new, f"volume {volume.name} has no trace on any drive: deleted since, perhaps", ""
    return new, "", ""


def _find(number: int, seen: _Seen, pools: frozenset[int], nonce: int) -> tuple[Volume | None, str]:
    """A volume that the store does not know, from its last attach ticket.

    One that cannot be recorded stays on the drives, untouched: no order frees it.
    """
    ticket = seen.ticket
    why = _unfindable(seen, pools)
    if ticket is None or why:
        return None, f"volume {number:016x} came after the copy and is NOT recovered: {why}"
    size = max(ticket.size, seen.end_block * BLOCK)
    generation = seen.generation + GENERATION_GAP
    name = f"recovered-{number:016x}"
    volume = Volume(
        number, name, ticket.pool, size, ticket.seed, (ChainLink(ticket.chain[0]),),
        generation=generation, owner=nonce, clean=False, ticket_serial=ticket.serial + 1,
        fencing=Fencing(generation),
        # What it holds is not known: nobody may format it because it looks new.
        content=Content(ContentState.RAW),
    )  # fmt: skip
    return volume, f"a volume that came after the copy is kept as {name} ({size} bytes)"


def _unfindable(seen: _Seen, pools: frozenset[int]) -> str:
    ticket = seen.ticket
    if ticket is None:
        return "no drive kept a ticket of it"
    if len(ticket.chain) != 1 or ticket.parents:
        return "it has snapshots or parents, which are recorded in the store alone"
    if ticket.pool not in pools:
        return f"its pool {ticket.pool} is not in the store"
    if seen.layers - set(ticket.chain):
        return "it has data in layers that its ticket does not name"
    return "" if max(ticket.size, seen.end_block * BLOCK) <= SIZE_MAX else "its size is impossible"


def _head(volume: Volume) -> Layer:
    return Layer(
        volume.head, volume.id, volume.pool, volume.seed, volume.size, LayerState.HEAD
    )  # fmt: skip


def _orders(
    records: Records,
    deleted: tuple[Volume, ...],
    seen: Mapping[int, _Seen],
    freed: frozenset[int],
    known: set[int],
) -> tuple[tuple[Layer, ...], tuple[Order, ...]]:
    """Free again what was deleted: who confirmed before may have copied it back since."""
    again = [replace(order, confirmed=()) for order in records.orders]
    number = max([records.next_order, *(o.id for o in records.orders)]) + ORDER_GAP
    layers: list[Layer] = []
    listed = {o.layer for o in records.orders}
    lost = [
        Layer(layer, number_, one.ticket.pool, one.ticket.seed, one.ticket.size, LayerState.DELETED)
        for number_, one in sorted(seen.items())
        if number_ not in known and one.ticket is not None
        for layer in sorted(one.ids & freed & one.layers)
    ]
    mine = [
        Layer(link.layer, v.id, v.pool, v.seed, v.size, LayerState.DELETED)
        for v in deleted
        for link in v.chain
    ]
    for layer in (*mine, *lost):
        if layer.id in listed:
            continue
        number += 1
        layers.append(layer)
        again.append(Order(number, layer.pool, layer.id))
    return tuple(layers), tuple(again)
