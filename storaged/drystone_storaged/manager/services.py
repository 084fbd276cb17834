"""Everything a manager consists of, wired once. Tests build the same with their own clocks."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Final

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.cluster.attach import AttachService
from drystone_storaged.cluster.drives import DriveService
from drystone_storaged.cluster.fence import FenceService
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
from drystone_storaged.manager.commander import Commander
from drystone_storaged.manager.control.credentials import Credentials
from drystone_storaged.manager.control.sessions import SessionKey, SessionRegistry
from drystone_storaged.manager.devices import DeviceDesk, DeviceReports
from drystone_storaged.manager.drivestats import DriveStats
from drystone_storaged.manager.failures import FailureJudge, JudgeDeps
from drystone_storaged.manager.joins import Backoff, JoinLoop, PromoteBatcher
from drystone_storaged.manager.mapfeed import MapFeed
from drystone_storaged.manager.probe import Prober, TcpProber
from drystone_storaged.manager.refusals import Refusals
from drystone_storaged.manager.reports import ReportLimiter
from drystone_storaged.manager.silence_loop import SilenceDeps, SilenceLoop
from drystone_storaged.manager.status import Figures, StatusService
from drystone_storaged.manager.tasks import TaskParts, TaskService
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
    reports: ReportLimiter
    voters: VoterKeeper
    devices: DeviceDesk
    wake_orders: Bell = field(default_factory=Bell)
    wake_sweep: Bell = field(default_factory=Bell)
    wake_map: Bell = field(default_factory=Bell)
    jobs: set[asyncio.Task[object]] = field(default_factory=set)

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
        await self.tasks.resume()

    def ring_all(self) -> None:
        """Every loop looks at everything: this manager leads from now on."""
        mine = (self.wake_orders, self.wake_sweep, self.wake_map, self.joins.bell)
        for bell in (*mine, self.voters.bell):
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
        for part in (*heard, self.status):
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

    ids: IdAllocator
    nodes: NodeService
    drives: DriveService
    pools: PoolService
    volumes: VolumeService
    members: MembershipService
    replacement: ReplacementService


def _records(env: Environment, store: MetadataStore, leadership: Leadership) -> _Records:
    ids = IdAllocator(store)
    pools, drives = PoolService(store, ids, env.native), DriveService(store, ids)
    members = MembershipService(store, leadership, monotonic=env.monotonic, wall=env.wall)
    return _Records(
        ids=ids,
        nodes=NodeService(store),
        drives=drives,
        pools=pools,
        volumes=VolumeService(store, ids, pools),
        members=members,
        replacement=ReplacementService(store, leadership, members, drives, env.native.place_pool),
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

    judge = FailureJudge(
        JudgeDeps(
            store=store,
            membership=records.members,
            drives=records.drives,
            commander=commander,
            prober=env.prober,
            stats=stats,
            monotonic=clock,
            joiner_failed=backoff.failed,
            connected=lambda node: sessions.get(("server", node)) is not None,
            still=still,
        )
    )
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
        fence=FenceService(
            store, records.volumes, commander, monotonic=clock, random_nonce=random_nonce
        ),
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
        status=StatusService(store, feed, sessions, Figures(stats, usage, refusals)),
        tasks=TaskService(
            TaskParts(store, records.ids, commander, records.members, records.volumes, env.wall)
        ),
        reports=ReportLimiter(),
        voters=VoterKeeper(VoterDeps(store, leadership, records.nodes, sessions, env.name)),
        devices=DeviceDesk(store, WantedService(store), sessions, DeviceReports()),
    )
    _listen(services)
    return services


def _listen(services: Services) -> None:
    services.leadership.on_lost.append(services.stand_down)
    # Whatever may let a drop or a join happen is a change of the map or of who is connected.
    services.feed.on_news += [services.wake_sweep.ring, services.joins.bell.ring]
    services.sessions.on_change.append(services.wake_sweep.ring)
    services.silence.on_left.append(services.wake_sweep.ring)
