"""Everything a manager consists of, wired once. Tests build the same with their own clocks."""

from __future__ import annotations

import asyncio
import functools
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.cluster import maintenance
from drystone_storaged.cluster.attach import AttachService
from drystone_storaged.cluster.drives import DriveService
from drystone_storaged.cluster.events import EventBook
from drystone_storaged.cluster.fence import FenceService
from drystone_storaged.cluster.health import HealthService
from drystone_storaged.cluster.ids import IdAllocator
from drystone_storaged.cluster.leadership import Leadership
from drystone_storaged.cluster.membership_service import MembershipService
from drystone_storaged.cluster.native import NATIVE, Native
from drystone_storaged.cluster.nodes import NodeService
from drystone_storaged.cluster.orders import OrderService, Usage
from drystone_storaged.cluster.pools import PoolService
from drystone_storaged.cluster.records import Cluster
from drystone_storaged.cluster.replacement import ReplacementService
from drystone_storaged.cluster.store import MetadataStore
from drystone_storaged.cluster.store_guarded import GuardedStore
from drystone_storaged.cluster.volumes import VolumeService
from drystone_storaged.cluster.wanted import WantedService
from drystone_storaged.manager.bell import Bell
from drystone_storaged.manager.chronicle import Chronicle
from drystone_storaged.manager.commander import Commander
from drystone_storaged.manager.control.credentials import Credentials
from drystone_storaged.manager.control.sessions import SessionKey, SessionRegistry
from drystone_storaged.manager.devices import DeviceDesk, DeviceReports
from drystone_storaged.manager.drivestats import DriveStats
from drystone_storaged.manager.evacuation import EvacuationDeps, EvacuationDesk
from drystone_storaged.manager.failures import FailureJudge, JudgeDeps
from drystone_storaged.manager.joins import Backoff, JoinLoop, PromoteBatcher
from drystone_storaged.manager.maintenance import DeskDeps, MaintenanceDesk
from drystone_storaged.manager.mapfeed import MapFeed
from drystone_storaged.manager.probe import Prober, TcpProber
from drystone_storaged.manager.refusals import Refusals
from drystone_storaged.manager.reports import ReportLimiter
from drystone_storaged.manager.retest import Outcome, RetestDeps, Retests
from drystone_storaged.manager.scrubs import ScrubDeps, ScrubKeeper
from drystone_storaged.manager.silence_loop import SilenceDeps, SilenceLoop
from drystone_storaged.manager.slow_watch import SlowWatch, WatchDeps
from drystone_storaged.manager.status import Figures, StatusService
from drystone_storaged.manager.tally import Tally
from drystone_storaged.manager.tasks import TaskParts, TaskService
from drystone_storaged.manager.upkeep import Upkeep, UpkeepDeps
from drystone_storaged.manager.voters import VoterDeps, VoterKeeper

log = get_logger(__name__)

COME_BACK_S: Final = 20.0
"""In which every server that lives has a session with a manager that was just elected: it notices
within 12 s that its old connection is dead (keepalive of one manager, 8 s and 4 s; 4 s where there
are several), tries the next one after 1 s at most, and a try takes 5 s at most."""


def random_nonce() -> int:
    """A random 64-bit number, not 0."""
    return secrets.randbits(64) or 1


@dataclass(frozen=True, slots=True)
class Environment:
    """What a manager takes from outside."""

    store: MetadataStore
    cluster: Cluster
    name: str
    master: bytes
    native: Native = NATIVE
    prober: Prober = field(default_factory=TcpProber)
    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True)
class Services:
    """A manager's parts; routers and servicers use them and hold nothing themselves."""

    env: Environment
    leadership: Leadership
    credentials: Credentials
    sessions: SessionRegistry
    commander: Commander
    nodes: NodeService
    drives: DriveService
    pools: PoolService
    volumes: VolumeService
    attach: AttachService
    fence: FenceService
    orders: OrderService
    usage: Usage
    stats: DriveStats
    refusals: Refusals
    backoff: Backoff
    membership: MembershipService
    replacement: ReplacementService
    feed: MapFeed
    judge: FailureJudge
    silence: SilenceLoop
    joins: JoinLoop
    promotions: PromoteBatcher
    status: StatusService
    tasks: TaskService
    scrubs: ScrubKeeper
    reports: ReportLimiter
    voters: VoterKeeper
    devices: DeviceDesk
    upkeep: Upkeep
    evacuation: EvacuationDesk
    maintenance: MaintenanceDesk
    chronicle: Chronicle
    retests: Retests
    slow: SlowWatch
    seen_by_servers: list[Callable[[int, int, str], Awaitable[None]]] = field(default_factory=list)
    """Told what state of the store a server has seen; raises where the store is an older one."""
    wake_orders: Bell = field(default_factory=Bell)
    wake_sweep: Bell = field(default_factory=Bell)
    wake_map: Bell = field(default_factory=Bell)
    wake_problems: Bell = field(default_factory=Bell)
    wake_events: Bell = field(default_factory=Bell)
    jobs: set[asyncio.Task[object]] = field(default_factory=set)

    @property
    def tally(self) -> Tally:
        """What this manager counts."""
        return self.chronicle.tally

    @property
    def events(self) -> EventBook:
        """What the managers remember."""
        return self.chronicle.book

    async def heard_of_store(self, incarnation: int, revision: int, server: str) -> None:
        """A server, or one of its drives, has seen this state of the store; see above."""
        for tell in self.seen_by_servers:
            await tell(incarnation, revision, server)

    @property
    def health(self) -> HealthService:
        """What is held against drives."""
        return self.judge.health

    def server_may_live(self, node: str) -> bool:
        """Whether a server is connected, or may be on its way to who leads since a moment."""
        key: SessionKey = ("server", node)
        if self.sessions.get(key) is not None:
            return True
        # One that was here and went has ended, as far as a session tells. Of one that was not
        # here yet the lack of a session says nothing until it had the time to come.
        return not self.sessions.was_here(key) and self.leadership.led_s() < COME_BACK_S

    def server_may_come_back(self, node: str) -> bool:
        """Whether a server without a session went, or this manager was elected, too lately to tell.

        Its connection may have broken where nothing else did.
        """
        gone_s = self.sessions.gone_s(("server", node))
        return (self.leadership.led_s() if gone_s is None else gone_s) < COME_BACK_S

    def spawn(self, work: Coroutine[Any, Any, object], what: str) -> None:
        """Run something beside the call that caused it; its failure is logged, not lost."""

        async def run() -> None:
            try:
                await work
            except DrystoneError as error:
                log.warning("background work failed", what=what, reason=str(error))

        task: asyncio.Task[object] = asyncio.create_task(run())
        self.jobs.add(task)
        task.add_done_callback(self.jobs.discard)

    async def take_over(self) -> None:
        """This manager was elected: begin with what the store says, and nothing else."""
        self._forget()
        await self.silence.recover()
        await self.feed.read()
        await self.health.load()
        await self.scrubs.recall()
        await self.tasks.resume()

    def ring_all(self) -> None:
        """Every loop looks at everything: this manager leads from now on."""
        self.chronicle.elected(self.env.name)
        mine = (self.wake_orders, self.wake_sweep, self.wake_map, self.joins.bell)
        later = (self.maintenance.bell, self.wake_problems, self.upkeep.bell, self.retests.bell)
        for bell in (*mine, self.voters.bell, self.scrubs.bell, *later):
            bell.ring()

    def stand_down(self) -> None:
        """Leadership ended: stop acting, and send everybody to who leads now."""
        log.warning("leadership lost")
        self._forget()
        self.feed.end_followers()
        self.wake_map.ring()
        self.sessions.end_all()

    def _forget(self) -> None:
        """What was heard as the leader says nothing about a later time."""
        self.silence.reset()
        self.tasks.reset()
        self.voters.reset()
        self.feed.forget()
        heard = (self.stats, self.usage, self.refusals, self.backoff, self.devices.reports)
        self.judge.complaints.clear()
        shown = (self.status, self.upkeep, self.scrubs, self.events, self.chronicle)
        for part in (*heard, *shown, self.health, self.slow):
            part.clear()

    async def close(self) -> None:
        """Stop everything that was started; the store stays open."""
        await self.silence.close()
        await self.tasks.close()
        for job in list(self.jobs):
            job.cancel()
        await asyncio.gather(*self.jobs, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Records:
    """What reads and writes the store, and hears of nobody."""

    store: MetadataStore
    leadership: Leadership
    ids: IdAllocator
    nodes: NodeService
    drives: DriveService
    pools: PoolService
    volumes: VolumeService
    members: MembershipService
    replacement: ReplacementService
    health: HealthService


def _records(env: Environment, store: MetadataStore, leadership: Leadership) -> _Records:
    ids = IdAllocator(store)
    pools, drives = PoolService(store, ids, env.native), DriveService(store, ids)
    members = MembershipService(store, leadership, monotonic=env.monotonic, wall=env.wall)
    return _Records(
        store=store,
        leadership=leadership,
        ids=ids,
        nodes=NodeService(store),
        drives=drives,
        pools=pools,
        volumes=VolumeService(store, ids, pools),
        members=members,
        replacement=ReplacementService(store, leadership, members, drives, env.native.place_pool),
        health=HealthService(store, env.wall),
    )


def build(env: Environment) -> Services:
    """Wire a manager."""
    leadership = Leadership(env.store, env.name)
    # Election apart, nothing of a manager has the store without the guard.
    store, clock = GuardedStore(env.store, leadership), env.monotonic
    records = _records(env, store, leadership)
    sessions = SessionRegistry(clock)
    commander = Commander(sessions)
    stats, usage, refusals, backoff = DriveStats(clock), Usage(), Refusals(), Backoff(clock)
    feed = MapFeed(store)

    async def still(node: str) -> bool:
        # Made below: each of the two needs the other.
        return await services.silence.server_is_still(node)

    judge = _judge(env, records, sessions, stats, failed=backoff.failed, still=still)
    upkeep = _upkeep(env, records, judge)
    unreached = functools.partial(_unreached, judge, clock)
    chronicle = _chronicle(env, records, sessions)
    tests = _tests(env, records, sessions, chronicle)
    tasks = _tasks(env, records, commander, upkeep, tests.test)
    scrubs = _scrubs(env, records, tasks)
    figures = Figures(
        stats, usage, refusals, unreached, lambda: upkeep.outlook, lambda: scrubs.records,
        env.wall, lambda: records.health.known, judge.closed,
    )  # fmt: skip
    services = Services(
        env=env,
        leadership=leadership,
        credentials=Credentials(env.master, env.cluster.key_epoch),
        sessions=sessions,
        commander=commander,
        nodes=records.nodes,
        drives=records.drives,
        pools=records.pools,
        volumes=records.volumes,
        attach=AttachService(records.volumes, env.native, env.master, env.cluster.key_epoch),
        fence=_fence(env, records, commander),
        orders=OrderService(store, commander),
        usage=usage,
        stats=stats,
        refusals=refusals,
        backoff=backoff,
        membership=records.members,
        replacement=records.replacement,
        feed=feed,
        judge=judge,
        silence=SilenceLoop(SilenceDeps(store, leadership, commander, sessions, judge, clock)),
        joins=JoinLoop(records.members, leadership, backoff, records.replacement.refill),
        promotions=PromoteBatcher(records.members, backoff),
        status=StatusService(store, feed, sessions, figures),
        tasks=tasks,
        scrubs=scrubs,
        reports=ReportLimiter(),
        voters=VoterKeeper(VoterDeps(store, leadership, records.nodes, sessions, env.name)),
        devices=DeviceDesk(store, WantedService(store), sessions, DeviceReports()),
        upkeep=upkeep,
        evacuation=_evacuation(env, records, stats, upkeep),
        maintenance=_maintenance(records, sessions, feed, chronicle, env.wall),
        chronicle=chronicle,
        retests=tests,
        slow=SlowWatch(WatchDeps(judge, records.health, tests.tester, stats, clock)),
    )
    _listen(services)
    return services


def _judge(
    env: Environment,
    records: _Records,
    sessions: SessionRegistry,
    stats: DriveStats,
    *,
    failed: Callable[[int], None],
    still: Callable[[str], Awaitable[bool]],
) -> FailureJudge:
    deps = JudgeDeps(
        store=records.store,
        membership=records.members,
        drives=records.drives,
        health=records.health,
        commander=Commander(sessions),
        prober=env.prober,
        stats=stats,
        monotonic=env.monotonic,
        joiner_failed=failed,
        connected=lambda node: sessions.get(("server", node)) is not None,
        still=still,
    )
    return FailureJudge(deps)


def _fence(env: Environment, records: _Records, commander: Commander) -> FenceService:
    return FenceService(
        records.store,
        records.volumes,
        commander,
        monotonic=env.monotonic,
        random_nonce=random_nonce,
    )


def _tests(
    env: Environment, records: _Records, sessions: SessionRegistry, chronicle: Chronicle
) -> Retests:
    return Retests(
        RetestDeps(
            store=records.store,
            leadership=records.leadership,
            health=records.health,
            commander=Commander(sessions),
            events=chronicle.book,
            connected=lambda node: sessions.get(("server", node)) is not None,
            wall=env.wall,
        )
    )


def _maintenance(
    records: _Records,
    sessions: SessionRegistry,
    feed: MapFeed,
    chronicle: Chronicle,
    wall: Callable[[], float],
) -> MaintenanceDesk:
    deps = DeskDeps(records.store, records.leadership, sessions, feed, wall, chronicle.book.note)
    return MaintenanceDesk(deps)


def _chronicle(env: Environment, records: _Records, sessions: SessionRegistry) -> Chronicle:
    book = EventBook(records.store, env.monotonic, env.wall)
    return Chronicle(book, Tally(), sessions, records.leadership.led_s)


async def _absences(store: MetadataStore) -> dict[str, float]:
    found = await maintenance.standing(store)
    return {node: record.until_s for node, record in found.items()}


def _scrubs(env: Environment, records: _Records, tasks: TaskService) -> ScrubKeeper:
    absences = functools.partial(_absences, records.store)
    keeper = ScrubKeeper(
        ScrubDeps(records.store, records.leadership, records.nodes, tasks, env.wall, absences)
    )
    tasks.on_scrubbed.append(keeper.ended)
    return keeper


def _upkeep(env: Environment, records: _Records, judge: FailureJudge) -> Upkeep:
    return Upkeep(
        UpkeepDeps(
            store=records.store,
            leadership=records.leadership,
            membership=records.members,
            nodes=records.nodes,
            place=env.native.place_pool,
            retire=judge.retire,
            monotonic=env.monotonic,
            wall=env.wall,
            absences=functools.partial(_absences, records.store),
            ejected=records.health.ejected,
        )
    )


def _evacuation(
    env: Environment, records: _Records, stats: DriveStats, upkeep: Upkeep
) -> EvacuationDesk:
    return EvacuationDesk(
        EvacuationDeps(
            store=records.store,
            membership=records.members,
            drives=records.drives,
            nodes=records.nodes,
            place=env.native.place_pool,
            stats=stats,
            upkeep=upkeep,
        )
    )


def _tasks(
    env: Environment,
    records: _Records,
    commander: Commander,
    upkeep: Upkeep,
    test: Callable[[int], Awaitable[Outcome]],
) -> TaskService:
    return TaskService(
        TaskParts(
            records.store,
            records.ids,
            commander,
            records.members,
            records.volumes,
            env.wall,
            env.monotonic,
            upkeep.balance,
            test,
        )
    )


def _unreached(judge: FailureJudge, clock: Callable[[], float]) -> Sequence[tuple[str, int]]:
    return judge.complaints.unreached(clock())


def _listen(services: Services) -> None:
    services.leadership.on_lost.append(services.stand_down)
    # Whatever may let a drop or a join happen is a change of the map or of who is connected.
    services.feed.on_news += [services.wake_sweep.ring, services.joins.bell.ring]
    services.feed.on_news += [services.wake_problems.ring, services.upkeep.bell.ring]
    services.feed.on_news.append(services.retests.bell.ring)
    services.sessions.on_change += [services.wake_sweep.ring, services.wake_problems.ring]
    services.sessions.on_change.append(services.upkeep.bell.ring)
    services.silence.on_left.append(services.wake_sweep.ring)
    _record(services)


def _record(services: Services) -> None:
    """What is told of for people to read later."""
    chronicle = services.chronicle

    def news() -> None:
        state = services.feed.latest()
        if state is not None:
            chronicle.map_news(state)

    services.feed.on_news.append(news)
    services.sessions.on_change.append(chronicle.sessions_changed)
    services.membership.on_changed.append(chronicle.membership)
    services.silence.on_outcome.append(chronicle.suspicion)
    services.fence.on_proven.append(chronicle.fenced)
    services.events.on_note.append(services.wake_events.ring)
