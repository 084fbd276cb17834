"""A cluster that is only its map: planners act on it, and every change is checked."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace

from drystone_storaged.cluster import membership, moves, outs
from drystone_storaged.cluster.maprecords import Shard
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.moves import Aim
from drystone_storaged.cluster.native import NATIVE
from drystone_storaged.cluster.pgmap import SHARD_PGS, PgRecord
from drystone_storaged.cluster.placement import PlacementSpec
from drystone_storaged.cluster.places import candidates, domains, standing_spec
from drystone_storaged.cluster.records import (
    Cluster,
    Drive,
    DriveState,
    FailureDomain,
    Node,
    Pool,
)

POOL = 1


class World:
    """``drives_of``: how many drives each node has. Time is a number that tests move."""

    def __init__(self, drives_of: list[int], *, copies: int = 3, pg_count: int = 64) -> None:
        self.now_s = 10_000
        self.drives: dict[int, Drive] = {}
        self.nodes: dict[str, Node] = {}
        for number, count in enumerate(drives_of, start=1):
            self.add_node(f"node-{number}")
            for _ in range(count):
                self.add_drive(f"node-{number}")
        width = min(copies, len(drives_of))
        self.pools = {
            POOL: Pool(POOL, "default", copies, 2, FailureDomain.NODE, pg_count, width=width)
        }
        self.pgs: dict[PgRef, PgRecord] = {}
        state = self.state()
        spec = PlacementSpec(
            POOL, pg_count, copies, candidates(self.pools[POOL], state, self.nodes)
        )
        for number, target in enumerate(NATIVE.place_pool(spec)):
            self.pgs[PgRef(POOL, number)] = PgRecord(1, target, target=target)

    def add_node(self, name: str) -> None:
        self.nodes[uuid.uuid5(uuid.NAMESPACE_DNS, name).hex] = Node(
            name, uuid.uuid5(uuid.NAMESPACE_DNS, name).hex
        )

    def add_drive(self, node: str) -> int:
        number = len(self.drives) + 1
        home = next(n for n in self.nodes.values() if n.name == node)
        self.drives[number] = Drive(
            number, str(uuid.UUID(int=number)), home.uuid, node, f"s{number}", 1 << 33, "a:1", 7,
            state=DriveState.UP, weight=1.0, proven=True,
        )  # fmt: skip
        return number

    def change(self, number: int, **fields) -> None:
        self.drives[number] = replace(self.drives[number], **fields)

    def fail(self, number: int) -> None:
        """Its server is gone: it is dropped wherever another live copy is."""
        self.change(number, state=DriveState.DOWN)
        live = moves.up_drives(self.state())
        changed, _ = membership.plan_drop(self.pgs, [number], self.now_s, live=live)
        self.apply(changed)

    def come_back(self, number: int) -> None:
        self.change(number, state=DriveState.UP)

    def state(self) -> MapState:
        shards = []
        for pool in self.pools.values():
            mine = [self.pgs[r] for r in sorted(self.pgs, key=lambda r: r.pg) if r.pool == pool.id]
            for index in range(0, len(mine), SHARD_PGS):
                part = tuple(mine[index : index + SHARD_PGS])
                shards.append(Shard(pool.id, index // SHARD_PGS, 1, b"", [part]))
        cluster = Cluster(str(uuid.UUID(int=5)), 0)
        return MapState(
            cluster, 1, 1, 1, dict(self.drives), dict(self.pools), tuple(shards),
            dict.fromkeys(self.drives, 1),
        )  # fmt: skip

    def apply(
        self, changed: Mapping[PgRef, PgRecord], *, completed: frozenset[int] = frozenset()
    ) -> None:
        """Take a plan over, if it keeps every promise."""
        where = domains(self.pools[POOL], self.state(), self.nodes)
        for ref, new in changed.items():
            old = self.pgs[ref]
            assert new.insync, "I1"
            assert set(new.insync) <= set(old.insync) | completed, "I2"
            members = list(new.members())
            assert len(set(members)) == len(members)
            moved = [where[d] for d in new.target]
            assert len(set(moved)) == len(moved), f"{ref}: copies share a domain"
            assert new.epoch > old.epoch or (new.insync, new.joining) == (old.insync, old.joining)
            self.pgs[ref] = new

    def shrunk(self, changed: Mapping[PgRef, PgRecord]) -> None:
        """Take a plan over that must leave as many live copies as the pool is wide."""
        up, width = moves.up_drives(self.state()), self.pools[POOL].width
        for ref, new in changed.items():
            before = len(up.intersection(self.pgs[ref].insync))
            assert len(up.intersection(new.insync)) >= min(before, width), ref
        self.apply(changed)

    def preferred(self, leaving: frozenset[int] = frozenset()) -> dict[int, list[tuple[int, ...]]]:
        """What the placement gives; nothing where every drive is emptied."""
        spec = standing_spec(self.pools[POOL], self.state(), self.nodes, leaving)
        return {} if spec is None else {POOL: list(NATIVE.place_pool(spec))}

    def aim(self, *, balance: bool = True) -> dict[int, Aim]:
        where = domains(self.pools[POOL], self.state(), self.nodes)
        return {pool: Aim(wanted, where, balance) for pool, wanted in self.preferred().items()}

    def join_and_promote(self) -> int:
        """What the join loop and the servers do; gives how many changed."""
        up = moves.up_drives(self.state())
        joined = {}
        for ref, record in self.pgs.items():
            if not record.joining:
                for drive in membership.wanted_joins(record, up)[:1]:
                    joined[ref] = membership.join(record, drive) or record
        self.apply(joined)
        promoted, names = {}, set()
        for ref, record in self.pgs.items():
            # A copy needs a source that serves, and both ends alive.
            for joiner in record.joining:
                if joiner.drive in up and up.intersection(record.insync):
                    promoted[ref] = membership.promote(record, joiner.drive, record.epoch) or record
                    names.add(joiner.drive)
        self.apply(promoted, completed=frozenset(names))
        return len(joined) + len(promoted)

    def tend(self, aims: dict[int, Aim]) -> int:
        """One round of the slow policies of moves; gives how many PGs changed."""
        where = {POOL: domains(self.pools[POOL], self.state(), self.nodes)}
        count = 0
        for changed in (
            outs.plan_returns(self.state(), self.nodes, self.now_s),
            moves.plan_undo(self.state(), where),
        ):
            count += len(changed)
            self.shrunk(changed)
        tidied = moves.plan_tidy(self.state(), self.now_s)
        self.shrunk(tidied)
        for drive, asked in moves.surplus(self.state()).items():
            up = moves.up_drives(self.state())
            left = moves.plan_retire(self.state(), drive, asked, up)
            self.shrunk(left)
            count += len(left)
        begun = moves.plan_moves(self.state(), aims)
        self.apply(begun)
        busy = moves.in_flight(self.state())
        assert len(begun) <= moves.MOVES_MAX
        assert not begun or len(busy) <= moves.MOVES_MAX, "more in flight than the limit"
        return count + len(begun) + len(tidied)

    def settle(self, aims: dict[int, Aim], *, rounds: int = 400) -> int:
        """Rounds until nothing changes any more."""
        for number in range(rounds):
            if not self.tend(aims) + self.join_and_promote():
                return number
        raise AssertionError("it never comes to rest")

    def slots(self) -> dict[int, int]:
        """Targets by drive."""
        return {n: sum(n in pg.target for pg in self.pgs.values()) for n in self.drives}

    def holds(self, number: int) -> int:
        """PGs that count on a drive in any way."""
        return sum(
            number in (*pg.members(), *pg.target) or pg.out_since(number) is not None
            for pg in self.pgs.values()
        )
