"""What nftables does to a group's incoming packets: cuts and loss, as text, and its counts.

Rules are in the receiver's namespace, in one table that goes away with it. Each kind and sender
has a counter of its own that outlives its rules: `heal` takes the rules only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tests.e2e.lib.shell import LabError
from tests.e2e.nemesis.settings import address

TABLE: Final = "inet nem"
# Before everything else that might look at a packet; 0 is where ordinary filters are.
PRIORITY: Final = -10
KINDS: Final = ("cut", "lost")
PERMILLE: Final = 1000


@dataclass(frozen=True, slots=True)
class Cut:
    """Nothing of ``src`` reaches ``dst``; what ``dst`` sends still arrives."""

    src: str
    dst: str


@dataclass(frozen=True, slots=True)
class Loss:
    """Of 1000 packets from ``src`` to ``dst``, ``permille`` are lost at random.

    ``udp_port``: only those to this port, for beacons alone.
    """

    src: str
    dst: str
    permille: int
    udp_port: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.permille <= PERMILLE:
            raise LabError(f"a loss is 1 to {PERMILLE} of 1000 packets, not {self.permille}")


Rule = Cut | Loss


def base(group: str, groups: Iterable[str]) -> str:
    """The group's table as it begins: counters at 0 and a chain that drops nothing."""
    counters = "\n".join(
        f"  counter {kind}_{src} {{ packets 0 bytes 0 }}"
        for src in groups
        if src != group
        for kind in KINDS
    )
    hook = f"type filter hook input priority {PRIORITY}; policy accept;"
    return f"table {TABLE} {{\n{counters}\n  chain in {{ {hook} }}\n}}\n"


def chain(group: str, rules: Iterable[Rule]) -> str:
    """One transaction that replaces what the group's chain does."""
    lines = [f"flush chain {TABLE} in"]
    # Cuts first: what is cut counts as cut, not as lost.
    ordered = sorted((rule for rule in rules if rule.dst == group), key=_order)
    lines += [f"add rule {TABLE} in {_rule(rule)}" for rule in ordered]
    return "\n".join(lines) + "\n"


def _order(rule: Rule) -> tuple[bool, str]:
    return isinstance(rule, Loss), rule.src


def _rule(rule: Rule) -> str:
    match = f"ip saddr {address(rule.src)}"
    if isinstance(rule, Cut):
        return f"{match} counter name cut_{rule.src} drop"
    if rule.udp_port is not None:
        match += f" udp dport {rule.udp_port}"
    chance = f"numgen random mod {PERMILLE} < {rule.permille}"
    return f"{match} {chance} counter name lost_{rule.src} drop"


def counted(listing: str) -> dict[tuple[str, str], int]:
    """Packets by kind and sender, from `nft -j list counters`."""
    found = {}
    for entry in json.loads(listing)["nftables"]:
        counter = entry.get("counter")
        if counter is not None:
            kind, _, src = counter["name"].partition("_")
            found[kind, src] = int(counter["packets"])
    return found
