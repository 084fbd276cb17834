"""How many packets each fault met: what a run prints, and 0 of what it enabled is a failure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

ORDER: Final = (
    "cut", "lost", "shaped", "discarded",
    "delayed", "reordered", "duplicated", "overflowed", "stray",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Packets:
    """Counts since the start of the network."""

    dropped: Mapping[tuple[str, str, str], int]  # by kind (cut, lost), sender, receiver
    # By kind and sender: shaped, times that it had to wait for its rate; discarded, packets that
    # found no room to wait.
    rated: Mapping[tuple[str, str], int]
    proxied: Mapping[str, int]  # the proxy's, by name

    def totals(self) -> dict[str, int]:
        """All of it by kind."""
        found = dict.fromkeys(ORDER, 0) | dict(self.proxied)
        for (kind, *_), count in (*self.dropped.items(), *self.rated.items()):
            found[kind] += count
        return found

    def on(self, kind: str, src: str, dst: str) -> int:
        """Packets that a cut or loss took on one direction."""
        return self.dropped.get((kind, src, dst), 0)

    def since(self, before: Packets) -> dict[str, int]:
        """Totals of a lap: now less what they were."""
        then = before.totals()
        return {kind: count - then[kind] for kind, count in self.totals().items()}


def sentence(totals: Mapping[str, int]) -> str:
    """For people: ``packets: 100 cut, 3 lost``; kinds at 0 are named too."""
    return "packets: " + ", ".join(f"{totals[kind]} {kind}" for kind in ORDER)
