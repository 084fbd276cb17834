"""What is settled of a volume: where its journals begin, so that they need not grow for ever.

Per block the value that a read saw while nothing was under way, and the changes of unknown outcome
which nobody has seen: these may still take effect at any time to come.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.e2e.nemesis.history import ALWAYS, ZERO, Op, Verb, first_value, writer_of
from tests.e2e.nemesis.journal import (
    Journal,
    JournalDamagedError,
    Kind,
    Record,
    boot,
    records,
    segments,
)

NAME: Final = "base.json"
VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Settled:
    """One block: what it held at a moment, and what may still come."""

    value: int = ZERO
    at: float = ALWAYS
    pending: tuple[Op, ...] = ()

    def ops(self) -> list[Op]:
        """As the beginning of a history."""
        return [first_value(self.value, self.at), *self.pending]


@dataclass(frozen=True, slots=True)
class Covered:
    """A client's segments and counts that are in the base already."""

    segment: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Base:
    """All of a volume. Blocks that are not named hold zeros since ever."""

    boot: int
    blocks: Mapping[int, Settled] = field(default_factory=dict)
    clients: Mapping[int, Covered] = field(default_factory=dict)
    fences: Mapping[int, float] = field(default_factory=dict)

    def block(self, number: int) -> Settled:
        """What is settled of one block."""
        return self.blocks.get(number, _ZEROS)


_ZEROS: Final = Settled()


def read_base(folder: Path) -> Base:
    """Read it; a volume without one is all zeros."""
    try:
        found = json.loads((folder / NAME).read_text())
    except FileNotFoundError:
        return Base(boot())
    except ValueError as error:
        raise JournalDamagedError(f"{folder / NAME} is not a base: {error}") from error
    if found.get("version") != VERSION:
        raise JournalDamagedError(
            f"{folder / NAME} has version {found.get('version')}, known is {VERSION}: "
            "start in a new folder"
        )
    return Base(
        found["boot"],
        {int(block): _settled(each) for block, each in found["blocks"].items()},
        {int(client): Covered(*each) for client, each in found["clients"].items()},
        {int(attach): at for attach, at in found["fences"].items()},
    )


def write_base(folder: Path, base: Base) -> None:
    """Replace it in one step."""
    text = json.dumps({
        "version": VERSION,
        "boot": base.boot,
        "blocks": {block: [s.value, s.at, s.pending] for block, s in base.blocks.items()},
        "clients": {client: [c.segment, c.count] for client, c in base.clients.items()},
        "fences": dict(base.fences),
    })  # fmt: skip
    new = folder / f"{NAME}.new"
    new.write_text(text)
    new.replace(folder / NAME)


def resume(folder: Path, client: int) -> tuple[Journal, int]:
    """Begin a client's next segment; the highest count that it ever used."""
    covered = read_base(folder).clients.get(client, Covered())
    counts = [
        writer_of(record.number)[1]
        for each in segments(folder)
        if each.client == client and each.number > covered.segment
        for record in records(each.path)
        if record.verb == Verb.WRITE
    ]
    return Journal(folder, client, covered.segment), max([covered.count, *counts])


def note_fence(folder: Path, attach: int) -> None:
    """Note that from now on nothing that comes through this attachment may change the volume."""
    now = time.monotonic()
    with resume(folder, _NOBODY)[0] as journal:
        journal.note(Record(Kind.OK, Verb.FENCE, 0, 0, 0, now, now, attach, 0))


_NOBODY: Final = 0  # the client whose journal tells what was done to the volume from outside


def _settled(found: list[Any]) -> Settled:
    value, at, pending = found
    return Settled(value, at, tuple(Op(*each) for each in pending))
