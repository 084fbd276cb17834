"""Health in one look: what `drystone status` prints, from the map and from reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from drystone_common.ids import format_id
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.maintenance import Records, standing
from drystone_storaged.cluster.mapstate import MapState
from drystone_storaged.cluster.membership import PgRef, effective_min_insync
from drystone_storaged.cluster.orders import Usage
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.pools import pool_capacity
from drystone_storaged.cluster.records import (
    Drive,
    DriveHealth,
    DriveState,
    Node,
    Pool,
    Scrubbed,
    Volume,
    Voters,
)
from drystone_storaged.cluster.store import MetadataStore
from drystone_storaged.cluster.txn import Unchanged, read_all, read_record
from drystone_storaged.manager.control.sessions import SessionRegistry
from drystone_storaged.manager.drivestats import DriveStats
from drystone_storaged.manager.issues import Seen, find_problems
from drystone_storaged.manager.maintenance import maintenance_json
from drystone_storaged.manager.mapfeed import MapFeed
from drystone_storaged.manager.problems import Problem, SinceTracker, health
from drystone_storaged.manager.refusals import Refusals
from drystone_storaged.manager.scrub_plan import ScrubRecords
from drystone_storaged.manager.upkeep import MoveFigures, Outlook

ISSUES_MAX: Final = 50  # a person reads some; the counts say the rest

Json = dict[str, Any]


def pg_state(record: PgRecord, width: int, min_insync: int, up: frozenset[int]) -> str:
    """One word for a PG: unavailable, stalled, resyncing, degraded or in_sync.

    One that has all its copies is in sync, also while a further one is made for a move.
    """
    alive = sum(1 for drive in record.insync if drive in up)
    if alive == 0:
        return "unavailable"
    if alive < min_insync:
        return "stalled"
    if alive >= width:
        return "in_sync"
    return "resyncing" if record.joining else "degraded"


def count_states(state: MapState, pools: Iterable[Pool]) -> Counter[str]:
    """How many PGs of these pools are in which state."""
    up = frozenset(d.id for d in state.drives.values() if d.state is DriveState.UP)
    # Nobody knows that one is down whose record cannot be read; there is an issue of its own.
    up |= state.unreadable_drives
    return Counter(
        pg_state(record, pool.width, effective_min_insync(pool.min_insync, pool.width), up)
        for pool in pools
        for record in state.pgs(pool.id).values()
    )


@dataclass(frozen=True, slots=True)
class Figures:
    """What processes reported last."""

    stats: DriveStats
    usage: Usage
    refusals: Refusals
    unreached: Callable[[], Sequence[tuple[str, int]]]
    """Names of processes that alone do not reach a joining drive, with its number."""
    outlook: Callable[[], Outlook]
    """What the last look of the upkeep found."""
    scrubbed: Callable[[], ScrubRecords]
    """How the last scrubs and comparisons ended."""
    wall: Callable[[], float]
    health: Callable[[], Mapping[int, DriveHealth]] = dict
    """What is held against drives."""
    closed: Callable[[MapState], Mapping[int, frozenset[PgRef]]] = lambda _: {}
    """What drives cannot serve although they are in sync, as they said."""


@dataclass(frozen=True, slots=True)
class Registered:
    """What the store says of nodes."""

    servers: list[Node]
    clients: list[Node]
    beacons: frozenset[str]
    """Names of the storage nodes that have a beacon of their own."""
    voters: frozenset[str]
    """Uuids of the storage nodes on the list of voters that counts now."""
    maintenance: Records
    """By uuid of the storage node."""


class StatusService:
    """Answers about health, drives, pools and use."""

    def __init__(
        self,
        store: MetadataStore,
        feed: MapFeed,
        sessions: SessionRegistry,
        figures: Figures,
    ) -> None:
        self._store = store
        self._nodes = Unchanged(store, self._read_nodes)
        self._held = Unchanged(store, self._read_held)
        self._feed = feed
        self._sessions = sessions
        self._stats = figures.stats
        self._usage = figures.usage
        self._refusals = figures.refusals
        self._unreached = figures.unreached
        self._outlook = figures.outlook
        self._scrubbed = figures.scrubbed
        self._wall = figures.wall
        self._health = figures.health
        self._closed = figures.closed
        self._since = SinceTracker(figures.wall)

    async def summary(self) -> Json:
        """Everything of `status -o json`."""
        state = self._as_told(await self._feed.read())
        known = await self._nodes.get()
        counts = count_states(state, state.pools.values())
        found = await self._problems(state, known, counts)
        nodes = [self.node(n, "server", state, known) for n in known.servers]
        nodes += [self.node(n, "client", state, known) for n in known.clients]
        live = [d for d in state.drives.values() if d.state is not DriveState.GONE]
        return {
            "health": health(found),
            "issues": [each.line for each in found[:ISSUES_MAX]],
            "problems": [each.as_json() for each in found[:ISSUES_MAX]],
            "cluster": state.cluster.uuid,
            "map_revision": state.revision,
            "nodes": sorted(nodes, key=lambda node: natural(node["name"])),
            "drives": self.drives(live, state),
            "pgs": pg_counts(counts),
            "resync": {
                "bytes_left": self._resync_left(state),
                "bytes_done": self._resync_done(state),
            },
        }

    async def problems(self) -> list[Problem]:
        """What is wrong now, and since when."""
        state = self._as_told(await self._feed.read())
        counts = count_states(state, state.pools.values())
        return await self._problems(state, await self._nodes.get(), counts)

    async def registered(self) -> Registered:
        """Nodes as they are recorded now."""
        return await self._nodes.get()

    def clear(self) -> None:
        """Read everything anew."""
        self._since.clear()
        self._nodes.forget()
        self._held.forget()

    async def _read_nodes(self) -> Registered:
        voters = await read_record(self._store, keys.VOTERS, Voters)
        return Registered(
            await read_all(self._store, keys.NODES, Node),
            await read_all(self._store, keys.CLIENTS, Node),
            frozenset(b.name for b in await read_all(self._store, keys.BEACONS, Node)),
            frozenset(voters[0].nodes if voters else ()),
            await standing(self._store),
        )

    def node(self, node: Node, role: str, state: MapState, known: Registered) -> Json:
        """One node."""
        key = ("server" if role == "server" else "client", node.uuid)
        connected = self._sessions.get(key) is not None  # type: ignore[arg-type]
        drives = [d.id for d in state.drives.values() if d.node == node.uuid]
        # Of a server that has its beacon inside, nobody else's connection says anything.
        apart = role == "server" and node.page_instance != 0
        return {
            "name": node.name, "uuid": node.uuid, "role": role, "connected": connected,
            "state": "up" if connected else "down", "version": node.version,
            "fault_set": node.fault_set or None, "drives": drives,
            "voter": role == "server" and node.uuid in known.voters,
            "beacon_registered": role == "server" and node.name in known.beacons,
            "beacon_connected": self._has_beacon(node) if apart else None,
            "maintenance": maintenance_json(known.maintenance.get(node.uuid), self._wall()),
        }  # fmt: skip

    def drives(self, drives: Sequence[Drive], state: MapState) -> list[Json]:
        """Drives with what each last reported; the placement groups are gone through once."""
        roles = _roles(state)
        return [self._drive(drive, roles.get(drive.id, Counter())) for drive in drives]

    def drive(self, drive: Drive, state: MapState) -> Json:
        """One drive."""
        return self.drives([drive], state)[0]

    def _drive(self, drive: Drive, roles: Counter[str]) -> Json:
        drive = self._drive_as_told(drive)
        figures = self._stats.get(drive.id)
        said = (r for r in self._refusals.of(drive.node) if r.uuid == drive.uuid)
        refused = None if drive.state is DriveState.UP else next(said, None)
        reason = f"{refused.code}: {refused.reason}" if refused else drive.reason or None
        return {
            "id": drive.id, "uuid": drive.uuid, "node": drive.node_name, "addr": drive.addr,
            "state": drive.state.value, "reason": reason, "serial": drive.serial,
            "device": drive.device or None, "class": drive.drive_class or None,
            "capacity": drive.capacity, "used": figures.used if figures else None,
            "resync_bytes_left": figures.resync_left if figures else 0,
            "resync_bytes_done": figures.resync_done if figures else 0,
            "bad_blocks": figures.bad_blocks if figures else 0,
            "healed_blocks": figures.healed_blocks if figures else 0,
            "pgs": {name: roles[name] for name in ("in_sync", "joining", "out")},
            "evacuating": drive.evacuating, "held": roles.total(),
            **health_json(self._health().get(drive.id)),
            "scrub": scrub_json(self._scrubbed().drives.get(drive.id)),
        }  # fmt: skip

    async def pool(self, pool: Pool) -> Json:
        """One pool with its space, in bytes of volumes."""
        state = self._as_told(await self._feed.read())
        targets = [record.target or record.insync for record in state.pgs(pool.id).values()]
        sizes, unused, free = self._sizes(state)
        capacity = pool_capacity(pool, targets, sizes)
        # What cleaning needs is nobody's data: available is less than what is not used.
        used = capacity - min(capacity, pool_capacity(pool, targets, unused))
        available = min(capacity - used, pool_capacity(pool, targets, free))
        return {
            "id": pool.id, "name": pool.name, "copies": pool.copies, "width": pool.width,
            "min_insync": pool.min_insync, "failure_domain": pool.failure_domain.value,
            "pg_count": pool.pg_count, "capacity": capacity, "used": used,
            "available": available, "pgs": pg_counts(count_states(state, [pool])),
            "out_time_s": pool.out_time_s, "rebalance": pool.rebalance.value,
            "moves": asdict(self._outlook().figures.get(pool.id, MoveFigures())),
            "scrub_days": pool.scrub_days,
            "compare": scrub_json(self._scrubbed().pools.get(pool.id)),
        }  # fmt: skip

    def used(self, volume: Volume) -> int | None:
        """Bytes that a volume's own layers hold, counted once."""
        return self._usage.used([link.layer for link in volume.chain])

    def _as_told(self, state: MapState) -> MapState:
        """The map with drives down that failed, also where that could not be recorded yet."""
        told = {d.id: self._drive_as_told(d) for d in state.drives.values()}
        return replace(state, drives=told)

    def _drive_as_told(self, drive: Drive) -> Drive:
        failed = self._refusals.failed(drive.node, drive.uuid)
        if failed is None or drive.state is not DriveState.UP:
            return drive
        return replace(drive, state=DriveState.DOWN, reason=failed.reason, ended=True)

    def _sizes(self, state: MapState) -> tuple[dict[int, int], dict[int, int], dict[int, int]]:
        """Of each drive: all bytes, those without data, those that new data may take."""
        sizes: dict[int, int] = {}
        unused: dict[int, int] = {}
        free: dict[int, int] = {}
        for drive in state.drives.values():
            figures = self._stats.get(drive.id)
            capacity = figures.capacity if figures else drive.capacity
            sizes[drive.id] = capacity
            used, reserved = (figures.used, figures.reserved) if figures else (0, 0)
            unused[drive.id] = max(0, capacity - used)
            free[drive.id] = max(0, capacity - used - reserved)
        return sizes, unused, free

    def _resync_left(self, state: MapState) -> int:
        found = [self._stats.get(drive) for drive in state.drives]
        return sum(f.resync_left for f in found if f is not None)

    def _resync_done(self, state: MapState) -> int:
        found = [self._stats.get(drive) for drive in state.drives]
        return sum(f.resync_done for f in found if f is not None)

    def _has_beacon(self, node: Node) -> bool:
        return self._sessions.get(("beacon", node.uuid)) is not None

    async def _waiting(self, clients: list[Node]) -> dict[str, list[str]]:
        """Volumes whose block daemon is away, by its node."""
        away = {c.uuid: c.name for c in clients if self._sessions.get(("client", c.uuid)) is None}
        # Every volume is looked at only while a daemon is away, and once for each change.
        held = await self._held.get() if away else {}
        return {name: held[uuid] for uuid, name in away.items() if uuid in held}

    async def _read_held(self) -> dict[str, list[str]]:
        """Names of the volumes that each client holds."""
        found: dict[str, list[str]] = {}
        for volume in await read_all(self._store, keys.VOLUMES, Volume):
            for client in {a.client for a in volume.attachments}:
                found.setdefault(client, []).append(volume.name)
        return found

    async def _problems(
        self, state: MapState, known: Registered, counts: Counter[str]
    ) -> list[Problem]:
        def connected(node: Node) -> bool:
            return self._sessions.get(("server", node.uuid)) is not None

        away = {n.name for n in known.servers if n.page_instance and not self._has_beacon(n)}
        waiting = await self._waiting(known.clients)
        seen = Seen(
            connected,
            away,
            self._stats,
            self._refusals,
            known.voters,
            waiting,
            unreached=self._unreached(),
            claimed=self._sessions.claimed_twice(),
            maintenance=known.maintenance,
            now_s=self._wall(),
            gone_s=lambda node: self._sessions.gone_s(("server", node.uuid)),
            outlook=self._outlook(),
            health=self._health(),
            scrubbed=self._scrubbed(),
            closed=self._closed(state),
        )
        return self._since.dated(find_problems(state, known.servers, counts, seen))


def scrub_json(record: Scrubbed | None) -> Json | None:
    """How the last scrub or comparison ended; null where there was none."""
    if record is None or not record.done_s:
        return None
    shown = asdict(record)
    # `divergent` sums the groups up; there may be thousands of them.
    del shown["id"], shown["since_s"], shown["differing"]
    return shown | {"examples": list(record.examples)}


def _roles(state: MapState) -> dict[int, Counter[str]]:
    """How many placement groups have each drive in sync, joining, or wait for it."""
    found: dict[int, Counter[str]] = {}
    for record in state.known_pgs().values():
        here = dict.fromkeys(record.target, "out")
        here |= dict.fromkeys((entry.drive for entry in record.out), "out")
        here |= dict.fromkeys((entry.drive for entry in record.joining), "joining")
        here |= dict.fromkeys(record.insync, "in_sync")
        for drive, role in here.items():
            found.setdefault(drive, Counter())[role] += 1
    return found


def natural(name: str) -> tuple[str, int, str]:
    """A key that puts node-2 before node-10."""
    stem = name.rstrip("0123456789")
    return stem, int(name[len(stem) :] or 0), name


def pg_counts(counts: Counter[str]) -> Json:
    """The form in answers; `degraded` includes what is worse."""
    worse = counts["stalled"] + counts["unavailable"]
    return {
        "total": counts.total(),
        "in_sync": counts["in_sync"],
        "degraded": counts["degraded"] + worse,
        "resyncing": counts["resyncing"],
        "stalled": counts["stalled"],
        "unavailable": counts["unavailable"],
    }


def health_json(health: DriveHealth | None) -> Json:
    """What is held against a drive; ``retest`` while it is out until it passes its test."""
    if health is None:
        return {"strikes": [], "ejected": False, "retest": None}
    waits = {"tries": health.tries, "last": health.last or None} if health.held else None
    strikes = [{"at_s": s.at_s, "reason": s.reason} for s in health.strikes]
    return {"strikes": strikes, "ejected": health.ejected, "retest": waits}


def volume_json(volume: Volume, pool_name: str, used: int | None) -> Json:
    """A volume as REST shows it."""
    known = volume.content
    fields = (("state", known.state.value), ("fs", known.fs), ("nonce", known.nonce))
    content = {name: value for name, value in fields if value is not None}
    return {
        "id": format_id(volume.id),
        "name": volume.name,
        "size": volume.size,
        "pool": pool_name,
        "used": used,
        "generation": volume.generation,
        "clean": volume.clean,
        "attributes": volume.attributes,
        "content": content,
        "publications": [{"node": p.node, "mode": p.mode.value} for p in volume.publications],
        "attachments": [
            {
                "node": a.node, "client": a.client, "nonce": format_id(a.nonce),
                "mode": a.mode.value, "state": a.state.value,
            }
            for a in volume.attachments
        ],
        "fencing": volume.fencing is not None,
        "lost_pgs": [{"pg": lost.pg, "epoch": lost.epoch} for lost in volume.lost_pgs],
    }  # fmt: skip
