"""Copies to a drive that do not go on by themselves, in words for the operator."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from drystone_storaged.agent.pump import Event

SENTENCES_MAX: Final = 8
"""Per drive in a status: a failing source shows in all its groups, and one remedy ends all."""


@dataclass(frozen=True, slots=True)
class StuckCopy:
    """What the engine said of one placement group."""

    drive: int
    pool: int
    pg: int
    blocks: int
    sources: tuple[int, ...]
    lost: bool

    def __str__(self) -> str:
        group = f"placement group {self.pg} of pool number {self.pool}"
        where = f"the copy of {group} to drive {self.drive}"
        drives = ", ".join(map(str, self.sources)) or "none"
        if self.lost:
            return (
                f"{where} is held: {self.blocks} blocks do not match their checksums on any "
                f"in-sync drive ({drives}), more than a copy gives up by itself; bring back a "
                'drive that had them, else see "A copy does not go on" in docs/operations.md'
            )
        return (
            f"{where} waits: no in-sync drive ({drives}) can read {self.blocks} of its blocks; it "
            "goes on when one can: look at the disk's cables and kernel log, bring back another "
            'drive that had them, else see "A copy does not go on" in docs/operations.md'
        )


def stuck_copy(event: Event) -> StuckCopy:
    """A ``copy_stuck`` report of the engine."""
    return StuckCopy(
        event["drive"],
        event["pool"],
        event["pg"],
        event["blocks"],
        tuple(event["sources"]),
        event["why"] == "lost",
    )


@dataclass(slots=True)
class StuckCopies:
    """Those of one drive since its open."""

    groups: dict[tuple[int, int], StuckCopy] = field(default_factory=dict)

    def take(self, copy: StuckCopy) -> None:
        """A group is stuck, still or anew."""
        self.groups[copy.pool, copy.pg] = copy

    def free(self, pool: int, pg: int) -> None:
        """A group's copy goes on or ended."""
        self.groups.pop((pool, pg), None)

    def sentences(self) -> Iterator[str]:
        """What a status says; how many more there are is said, too."""
        copies = sorted(self.groups.values(), key=lambda c: (c.pool, c.pg))
        yield from map(str, copies[:SENTENCES_MAX])
        more = len(copies) - SENTENCES_MAX
        if more > 0:
            yield f"{more} more copies to this drive do not go on either"
