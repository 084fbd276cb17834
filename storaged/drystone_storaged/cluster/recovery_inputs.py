"""What a recovery begins with: an old store, what the drives say, and what is given up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.records import (
    Drive,
    Layer,
    Node,
    Order,
    Pool,
    Volume,
    Voters,
)
from drystone_storaged.cluster.scans import NodeScan


@dataclass(frozen=True, slots=True)
class Backup:
    """What the store says. ``counters`` are the next free ids by kind."""

    cluster: str
    incarnation: int
    revision: int
    drives: Mapping[int, Drive]
    pools: Mapping[int, Pool]
    pgs: Mapping[PgRef, PgRecord]
    volumes: tuple[Volume, ...] = ()
    layers: Mapping[int, Layer] = field(default_factory=dict)
    orders: tuple[Order, ...] = ()
    nodes: Mapping[str, Node] = field(default_factory=dict)
    voters: Voters = field(default_factory=lambda: Voters(1))
    counters: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Inputs:
    """A backup, what the drives say, and what is given up."""

    backup: Backup
    scans: tuple[NodeScan, ...]
    without: frozenset[int]
    now_s: int
    nonce: int
    """Random: the owner of every volume from then on, whom nobody is."""
