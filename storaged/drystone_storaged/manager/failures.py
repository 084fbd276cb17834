"""Who is dropped, and on what proof: refused probes, beacons, own and client reports (§4.5)."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.cluster import keys, moves
from drystone_storaged.cluster import membership as planner
from drystone_storaged.cluster.drives import DriveService, EvidenceExpiredError
from drystone_storaged.cluster.health import Blow, HealthService
from drystone_storaged.cluster.mapstate import MapState, read_state
from drystone_storaged.cluster.membership import PgRef
from drystone_storaged.cluster.membership_service import (
    EVIDENCE_TTL_S,
    Changed,
    Evidence,
    MembershipService,
)
from drystone_storaged.cluster.pgmap import PgRecord
from drystone_storaged.cluster.records import Drive, DriveState, Node
from drystone_storaged.cluster.store import Compare, MetadataStore
from drystone_storaged.manager.commander import Commander
from drystone_storaged.manager.complaints import Complaints
from drystone_storaged.manager.drivestats import DriveStats
from drystone_storaged.manager.probe import Liveness, Prober, all_refused
from drystone_storaged.manager.refusals import FAILED
from drystone_storaged.proto import control_pb2 as pb

log = get_logger(__name__)

HUNG_US: Final = 1_000_000  # §4.7: one second of service time ...
HUNG_FACTOR: Final = 10  # ... while it is ten times the pool's median: not when everything is slow

STUCK_US: Final = 10_000_000
"""A drive that hangs for so long is dropped also where writes wait without it: it may never answer
again, and only what was dropped is made anew elsewhere. A shorter hang ends sooner than a copy."""

ASKED_MAX: Final = 4  # drives asked whether they hang at this moment too


@dataclass(frozen=True, slots=True)
class JudgeDeps:
    """What the judge works with."""

    store: MetadataStore
    membership: MembershipService
    drives: DriveService
    health: HealthService
    commander: Commander
    prober: Prober
    stats: DriveStats
    monotonic: Callable[[], float]
    joiner_failed: Callable[[int], None]
    connected: Callable[[str], bool]
    still: Callable[[str], Awaitable[bool]]
    """Drop a node by its beacon's word that its server is gone or stands still; True = done."""


@dataclass(frozen=True, slots=True)
class Said:
    """Who says what about a drive, and when (monotonic seconds)."""

    reporter: Node
    kind: int
    at_s: float


class FailureJudge:
    """Turns observations into drops; believes nothing it has not proven itself."""

    def __init__(self, deps: JudgeDeps) -> None:
        self._deps = deps
        self.complaints = Complaints()
        # One look at a process at a time: two would void each other's evidence.
        self._looking: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._closed: dict[int, tuple[int, frozenset[PgRef]]] = {}

    @property
    def health(self) -> HealthService:
        """What is held against drives."""
        return self._deps.health

    async def has_members(self, node: str) -> bool:
        """Whether a node's drives are members of any PG."""
        state = await read_state(self._deps.store)
        mine = {d.id for d in state.drives.values() if d.node == node}
        return any(mine.intersection(record.members()) for record in state.known_pgs().values())

    async def left(
        self,
        drive: int,
        nonce: int,
        refs: frozenset[PgRef],
        evidence: Evidence,
        condition: Compare,
        *,
        blank: bool,
        joining: bool,
    ) -> Changed:
        """A drive asks to leave PGs (all of its own where none is named).

        Never where no other copy lives: what it cannot serve may be the last there is of it. One
        that would return as blank counts for nothing from here on, so that nobody else is
        dropped because of it.
        """
        state = await read_state(self._deps.store)
        if blank and not joining:
            pgs = state.known_pgs()
            mine = refs or frozenset(ref for ref, pg in pgs.items() if drive in pg.insync)
            before = self._closed.get(drive, (0, frozenset()))
            known = before[1] if before[0] == nonce else frozenset()
            # Only what it still is a member of: the list ends with its PGs.
            kept = frozenset(r for r in mine | known if r in pgs and drive in pgs[r].insync)
            self._closed[drive] = (nonce, kept)
        return await self._deps.membership.drop(
            [drive],
            evidence,
            only=refs or None,
            blank=blank,
            joining=joining,
            live=await self._live(state, frozenset([drive])),
            conditions=[condition],
        )

    async def check_process(self, node: str) -> bool:
        """Probe a node's drives; refused everywhere = dead, dropped now. True = dropped.

        A process that is frozen accepts connections, and behind a firewall nobody refuses: then
        the node's beacon is asked, which sees whether the process lives and moves.
        """
        async with self._looking[node]:
            return await self._check_process(node)

    async def _check_process(self, node: str) -> bool:
        state = await read_state(self._deps.store)
        drives = _serving(state, node)
        evidence = Evidence("connection refused", self._deps.monotonic())
        if not await all_refused(self._deps.prober, [d.addr for d in drives]):
            return await self._deps.still(node)
        log.warning("server process is dead", node=node, drives=[d.id for d in drives])
        # The state was read before the probe: an open or a READY since then voids this drop.
        await self._drop(state, _of_node(state, node), evidence, ended=True)
        return True

    async def drop_node(
        self, node: str, evidence: Evidence, *, conditions: Sequence[Compare] = ()
    ) -> Changed:
        """Drop all drives of a node whose lease is over."""
        state = await read_state(self._deps.store)
        drives = _of_node(state, node)
        numbers = [d.id for d in drives]
        log.warning("dropping a silent node", node=node, drives=numbers, reason=evidence.reason)
        return await self._drop(state, drives, evidence, conditions, ended=False)

    async def drive_ended(self, number: int, reason: str) -> Changed | None:
        """Drop a drive that answers no request any more; None = it was opened again since."""
        state = await read_state(self._deps.store)
        drive = state.drives.get(number)
        if drive is None or not drive.ended:
            return None
        evidence = Evidence(reason, self._deps.monotonic())
        return await self._drop(state, [drive], evidence, ended=True)

    async def client_report(self, number: int, kind: int, nonce: int, reporter: Node) -> None:
        """A client or peer complains about a drive."""
        state = await read_state(self._deps.store)
        drive = state.drives.get(number)
        if drive is None or (nonce not in (0, drive.nonce)):
            return
        at_s = self._deps.monotonic()
        said = Said(reporter, kind, at_s)
        if await self._drop_joiner(state, drive, said):
            return
        if kind == pb.FAILURE_KIND_REFUSED:
            await self.check_process(drive.node)
        elif kind in (pb.FAILURE_KIND_STALL, pb.FAILURE_KIND_ERROR):
            await self._check_drive(state, drive, at_s)

    async def _drop_joiner(self, state: MapState, drive: Drive, said: Said) -> bool:
        """A joiner has no lease and serves nobody: the first report of each reporter suffices."""
        pgs = state.known_pgs()
        joining = [ref for ref, record in pgs.items() if record.joiner(drive.id) is not None]
        if joining and not await self._is_kept(drive, len(joining), said):
            self._deps.joiner_failed(drive.id)
            evidence = Evidence("reported while joining", said.at_s)
            # One that was promoted meanwhile may have a lease: it is no joiner any more.
            await self._deps.membership.drop([drive.id], evidence, only=joining, joining=True)
            self.complaints.dropped(drive.id)
        return bool(joining) and not any(drive.id in r.insync for r in pgs.values())

    async def _is_kept(self, drive: Drive, joining: int, said: Said) -> bool:
        """Whether only this reporter does not reach a joiner that does well, as it said before."""
        who = said.reporter
        first = self.complaints.is_first(drive.id, who.uuid, who.name, said.at_s)
        if first or said.kind != pb.FAILURE_KIND_STALL:
            return False
        answer = await self._deps.commander.probe_drive(drive.node, drive.id)
        if answer is None or answer.code or answer.probe.oldest_io_us >= HUNG_US:
            return False
        figures = self._deps.stats.get(drive.id)
        progress = (figures.resync_done if figures else 0, joining)
        if self.complaints.is_stuck(drive.id, who.uuid, progress, said.at_s):
            return False
        log.info("a joiner is kept, it does well", drive=drive.id, reporter=who.name)
        return True

    async def _check_drive(self, state: MapState, drive: Drive, at_s: float) -> None:
        answer = await self._deps.commander.probe_drive(drive.node, drive.id)
        if answer is None:
            # A dead process refuses; a frozen one is found by the beacons' silence.
            await self.check_process(drive.node)
            return
        if answer.code == FAILED:
            await self._drop_failed(state, drive, Evidence(answer.message or "failed", at_s))
            return
        status = answer.probe
        others = [p for d, p in self._deps.stats.p99_us().items() if d != drive.id]
        median = statistics.median(others) if others else 0
        if status.oldest_io_us < HUNG_US or status.oldest_io_us <= HUNG_FACTOR * median:
            log.info("a reported drive does well by its own account", drive=drive.id)
            return
        live = await self._live(state, frozenset([drive.id]))
        missed = not moves.can_be_missed(state, drive.id, live)
        if status.oldest_io_us < STUCK_US and (missed or await self._others_hang(state, drive)):
            log.warning("a drive hangs and stays for now", drive=drive.id, missed=missed)
            return
        await self.drop_live(state, drive, Evidence("drive hangs", at_s), strike=True)

    async def _others_hang(self, state: MapState, drive: Drive) -> bool:
        """Whether most of those that share its PGs hang at this moment: then it is not the drive.

        Their figures of ended operations say nothing of a stall that has just begun.
        """
        shared: Counter[int] = Counter()
        for record in state.known_pgs().values():
            if drive.id in record.insync:
                shared.update(d for d in record.insync if d != drive.id)
        asked = [state.drives[n] for n, _ in shared.most_common(ASKED_MAX) if n in state.drives]
        found = await asyncio.gather(
            *(self._deps.commander.probe_drive(d.node, d.id) for d in asked)
        )
        hang = [a.probe.oldest_io_us >= HUNG_US for a in found if a is not None and not a.code]
        return 2 * sum(hang) > len(hang)

    async def drop_slow(self, number: int, evidence: Evidence) -> bool:
        """Drop a drive that is only slow; not where anybody would miss it. True = it went."""
        state = await read_state(self._deps.store)
        drive = state.drives.get(number)
        unknown = state.unreadable_drives or state.unreadable_pools
        if drive is None or drive.state is not DriveState.UP or unknown:
            return False
        live = await self._live(state, frozenset([number]))
        if not moves.can_be_missed(state, number, live):
            log.warning("a slow drive stays, it cannot be missed", drive=number)
            return False
        if not await self.drop_live(state, drive, evidence, strike=True):
            return False
        # What it was copying waits for it too.
        await self._deps.membership.drop([number], evidence, joining=True)
        return True

    async def _drop_failed(self, state: MapState, drive: Drive, evidence: Evidence) -> None:
        """Its server says that it answers no request any more: as if it had reported that."""
        log.warning("a drive failed by its own account", drive=drive.id, reason=evidence.reason)
        done = await self._drop(state, [drive], evidence, ended=True)
        if done.refused:
            log.error("a failed drive holds last in-sync copies", drive=drive.id)

    async def drop_live(
        self, state: MapState, drive: Drive, evidence: Evidence, *, strike: bool = False
    ) -> bool:
        """Drop a drive whose server lives: it must stop answering reads first.

        ``strike``: it is held against the drive, and it has to pass a test before it comes back.
        """
        live = await self._live(state, frozenset([drive.id]))
        held = {ref: r for ref, r in state.known_pgs().items() if drive.id in r.insync}
        # Only where it can leave: a last copy that promised to answer no reads would never be read
        # again, as no later epoch comes without it.
        leaves, _ = planner.plan_drop(held, [drive.id], 0, live=live)
        pgs = {ref: r for ref, r in held.items() if ref in leaves}
        if held and not pgs:
            log.warning("a drive stays, no other copy lives", drive=drive.id)
            return False
        if not await self._deps.commander.quiesce(drive.node, drive.id, pgs):
            log.warning("a drive to be dropped did not quiesce", drive=drive.id)
            return False
        epochs = {ref: r.epoch for ref, r in pgs.items()}

        def unchanged(now: MapState) -> bool:
            # The promise holds for the epochs it named.
            current = now.known_pgs()
            return all(r in current and current[r].epoch == e for r, e in epochs.items())

        log.warning("dropping a drive", drive=drive.id, reason=evidence.reason)
        async with self._promised(drive.id, epochs):
            observed = {drive.id: state.drive_revisions[drive.id]}
            blow = await self._blow(state, drive, evidence) if strike else None
            conditions = await self._deps.drives.set_down(
                observed, evidence.reason, ended=False, blow=blow
            )
            if blow is not None:
                self._deps.health.wrote(blow.health)
            await self._deps.membership.drop(
                [drive.id],
                evidence,
                only=list(pgs),
                live=live & await self._live(state, frozenset([drive.id])),
                still_valid=unchanged,
                conditions=conditions,
            )
        return True

    @contextlib.asynccontextmanager
    async def _promised(self, drive: int, epochs: Mapping[PgRef, int]) -> AsyncIterator[None]:
        """What rests on promises to answer no reads; those that it does not use end with it.

        The drive would say so itself, but only when no drop can come any more, and reads wait.
        """
        try:
            yield
        except DrystoneError:
            await self._end_promises(drive, epochs)
            raise
        await self._end_promises(drive, epochs)

    async def _end_promises(self, drive: int, epochs: Mapping[PgRef, int]) -> None:
        try:
            done = await self._deps.membership.renew(drive, epochs)
        except DrystoneError as error:
            # It leads no more, or the store is away: the drive asks again.
            log.info("promises not ended", drive=drive, reason=str(error))
            return
        if done.changed:
            log.info("promises ended", drive=drive, pgs=len(done.changed))

    async def _blow(self, state: MapState, drive: Drive, evidence: Evidence) -> Blow | None:
        if drive.state is not DriveState.UP:
            return None  # it is out already, and was struck for that
        others = moves.up_drives(state) - {drive.id}
        last = any(
            drive.id in pg.insync and others.isdisjoint(pg.insync)
            for pg in state.known_pgs().values()
        )
        return await self._deps.health.blow(drive.id, evidence.reason, may_eject=not last)

    async def retire(self, state: MapState, drive: Drive, pgs: Mapping[PgRef, PgRecord]) -> bool:
        """Have a live drive leave PGs that are whole without it; True = it left some.

        It stays up. As for any drop it stops answering reads of them first, in the epochs that
        they have now: where one changed since, the promise and so the drop are void.
        """
        live = await self._live(state, frozenset([drive.id]))
        whole = {ref: pg for ref, pg in pgs.items() if live.issuperset(pg.target)}
        if not whole or not await self._deps.commander.quiesce(drive.node, drive.id, whole):
            return False
        promised_s = self._deps.monotonic()
        epochs = {ref: pg.epoch for ref, pg in whole.items()}

        def plan(now: MapState) -> tuple[Mapping[PgRef, PgRecord], tuple[PgRef, ...]]:
            if self._deps.monotonic() - promised_s > EVIDENCE_TTL_S:
                raise EvidenceExpiredError(f"moving drive {drive.id} away: evidence is void")
            return moves.plan_retire(now, drive.id, whole, live), ()

        # Whoever opened it since made no promise.
        unchanged = Compare.mod(keys.drive(drive.id), state.drive_revisions[drive.id])
        try:
            async with self._promised(drive.id, epochs):
                done = await self._deps.membership.edit(plan, "a move's end", [unchanged])
        except EvidenceExpiredError as error:
            log.info("a move ends later", drive=drive.id, reason=str(error))
            return False
        log.info("a drive left placement groups", drive=drive.id, pgs=len(done.changed))
        return bool(done.changed)

    async def _drop(
        self,
        state: MapState,
        drives: list[Drive],
        evidence: Evidence,
        conditions: Sequence[Compare] = (),
        *,
        ended: bool,
    ) -> Changed:
        # Down first: the join loop must not bring back what is being dropped. The conditions
        # that come back void the drop if the drive is opened or reported ready meanwhile: a
        # process that starts between the probe and the transaction is not the dead one.
        observed = {d.id: state.drive_revisions[d.id] for d in drives}
        live = await self._live(state, frozenset(observed))
        unchanged = await self._deps.drives.set_down(observed, evidence.reason, ended=ended)
        return await self._deps.membership.drop(
            list(observed), evidence, live=live, conditions=[*conditions, *unchanged]
        )

    async def _live(self, state: MapState, besides: frozenset[int]) -> frozenset[int]:
        """Drives that are ready, of connected servers, and listen at this moment."""
        left_out = besides | self.closed(state).keys()  # computed once: it walks the whole map
        candidates = [
            d
            for d in state.drives.values()
            if d.state is DriveState.UP and d.id not in left_out and self._deps.connected(d.node)
        ]
        found = await asyncio.gather(*(self._deps.prober.probe(d.addr) for d in candidates))
        answers = zip(candidates, found, strict=True)
        return frozenset(d.id for d, result in answers if result is Liveness.LISTENING)

    def closed(self, state: MapState) -> dict[int, frozenset[PgRef]]:
        """What drives said since they were opened that they cannot serve, and are in sync of.

        They are no live copies, whatever answers at their address.
        """
        pgs, found = state.known_pgs(), {}
        for number, (nonce, refs) in self._closed.items():
            drive = state.drives.get(number)
            still = frozenset(r for r in refs if r in pgs and number in pgs[r].insync)
            if still and drive is not None and drive.nonce == nonce:
                found[number] = still
        return found

    async def sweep(self) -> bool:
        """Find what no event told: deaths while no manager ran, drops that could not be done.

        Looks at servers without a session, and at drives that ended while no other copy lived. A
        drive that is down for another reason keeps its copies until its lease is proven over.
        Gives whether there was anything to look at.
        """
        state = await read_state(self._deps.store)
        pgs = state.known_pgs()
        nodes = {d.node for d in state.drives.values() if d.state is not DriveState.GONE}
        found = False
        for node in sorted(n for n in nodes if not self._deps.connected(n)):
            numbers = [d.id for d in _of_node(state, node)]
            up = any(state.drives[n].state is DriveState.UP for n in numbers)
            if up or _droppable(state, pgs, numbers, self._deps.connected):
                found = True
                await self.check_process(node)
        for drive in state.drives.values():
            if drive.ended and _droppable(state, pgs, [drive.id], self._deps.connected):
                found = True
                await self.drive_ended(drive.id, drive.reason)
        return found


def _droppable(
    state: MapState,
    pgs: Mapping[PgRef, PgRecord],
    numbers: list[int],
    connected: Callable[[str], bool],
) -> bool:
    live = frozenset(
        d.id for d in state.drives.values() if d.state is DriveState.UP and connected(d.node)
    )
    changed, _ = planner.plan_drop(pgs, numbers, 0, live=live - frozenset(numbers))
    return bool(changed)


def _of_node(state: MapState, node: str) -> list[Drive]:
    return [d for d in state.drives.values() if d.node == node and d.state is not DriveState.GONE]


def _serving(state: MapState, node: str) -> list[Drive]:
    """Drives whose address the process listens on; those it only opened, if it has no others."""
    drives = _of_node(state, node)
    return [d for d in drives if d.state is DriveState.UP] or drives
