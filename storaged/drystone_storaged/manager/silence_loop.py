"""From silence to a drop: /suspect, promises, the lease's wait, one transaction (§4.5).

Besides, a server process that is gone or stands still under a living beacon: there the beacon's
own promise replaces those of the majority and the wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.cluster import keys
from drystone_storaged.cluster.leadership import Leadership
from drystone_storaged.cluster.membership_service import Evidence
from drystone_storaged.cluster.records import Node, Suspicion, Voters
from drystone_storaged.cluster.store import Compare, Delete, MetadataStore
from drystone_storaged.cluster.suspicions import standing, stands, suspect
from drystone_storaged.cluster.txn import read_record
from drystone_storaged.manager.commander import Commander
from drystone_storaged.manager.control.sessions import SessionRegistry
from drystone_storaged.manager.failures import FailureJudge
from drystone_storaged.manager.silence import PROMISE_WAIT_S, SilenceTracker, majority
from drystone_storaged.proto import control_pb2 as pb

log = get_logger(__name__)

PROMISES_S: Final = 2.0  # to collect promises; evidence lives 5 s and the wait takes 1.6 s of it
RETRY_S: Final = 0.25  # between two rounds of asking those that did not promise yet


Decide = Callable[[Suspicion, list[Compare]], Awaitable[None]]
"""Looks for the proof while a suspicion stands; the drop compares what it is given."""


@dataclass(frozen=True, slots=True)
class SilenceDeps:
    """What the loop works with."""

    store: MetadataStore
    leadership: Leadership
    commander: Commander
    sessions: SessionRegistry
    judge: FailureJudge
    monotonic: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class SilenceLoop:
    """One suspicion at a time per node."""

    def __init__(self, deps: SilenceDeps) -> None:
        self._deps = deps
        self._tracker = SilenceTracker()
        self._running: dict[str, asyncio.Task[bool] | asyncio.Task[None]] = {}
        self._asking: dict[str, asyncio.Task[bool]] = {}
        """Whose beacon is asked: no claim on the node, for the beacon may be as frozen as it."""
        self._untold = False
        self.on_left: list[Callable[[], None]] = []
        """Called when a suspicion may stand that nobody is at: ``tidy`` takes it back."""
        self.on_outcome: list[Callable[[str, str], None]] = []
        """Called with a node and what came of its suspicion: dropped, heard, moves, failed."""

    async def report(self, voter: str, silent: list[str]) -> None:
        """A beacon's report came in."""
        now = self._deps.monotonic()
        self._tracker.report(voter, silent, now)
        if not silent or not self._deps.leadership.leads:
            return
        voters, same_voters = await self._voters()
        for node in self._tracker.suspects(voters.nodes, now):
            # Nothing is awaited between the look and the note: reports come at the same time.
            if node not in self._running:
                running = self._running
                task = asyncio.create_task(self._suspect(node, voters, same_voters))
                running[node] = task
                task.add_done_callback(lambda _, r=running, n=node: r.pop(n, None))  # type: ignore[misc]

    async def suspects_message(self) -> pb.SessionDown:
        """Every suspicion that stands."""
        revision, found = await standing(self._deps.store)
        listed = [pb.Suspect(node=bytes.fromhex(s.node), round=s.round) for s in found]
        return pb.SessionDown(suspects=pb.Suspects(suspects=listed, revision=revision))

    def reset(self) -> None:
        """Nothing is decided from here any more, and no vote from before counts."""
        for task in self._tasks():
            task.cancel()
        self._running, self._asking = {}, {}
        self._tracker = SilenceTracker()
        self._untold = False

    async def tidy(self) -> bool:
        """Withdraw what stands although nobody is at it, such as after a store that hung.

        A node gets no lease while it is suspected. Nothing is decided without a task, and a node
        that is still silent is suspected anew. Gives whether there was anything to do.
        """
        found = [s for s in (await standing(self._deps.store))[1] if s.node not in self._running]
        self._untold = self._untold or bool(found)
        if not self._untold:
            return False
        for suspicion in found:
            log.warning("a suspicion was left standing, withdrawn", node=suspicion.node)
            # This one only: a later one of the same node is another task's.
            await self._deps.store.txn([stands(suspicion)], [Delete(keys.suspect(suspicion.node))])
        await self._tell()
        self._untold = False
        return True

    async def recover(self) -> None:
        """At election: suspicions of a manager that is gone are withdrawn; votes begin anew."""
        for suspicion in (await standing(self._deps.store))[1]:
            await self._withdraw(suspicion.node)

    async def close(self) -> None:
        """Stop; a suspicion under way is withdrawn by whoever leads next."""
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _tasks(self) -> list[asyncio.Task[bool] | asyncio.Task[None]]:
        return [*self._running.values(), *self._asking.values()]

    async def _voters(self) -> tuple[Voters, Compare]:
        found = await read_record(self._deps.store, keys.VOTERS, Voters)
        revision = found[1].mod_revision if found else 0
        return found[0] if found else Voters(1), Compare.mod(keys.VOTERS, revision)

    async def _suspect(self, node: str, voters: Voters, same_voters: Compare) -> None:
        try:
            # One that was dropped already stays silent, and there is nothing to decide.
            if await self._deps.judge.has_members(node):

                async def decide(suspicion: Suspicion, conditions: list[Compare]) -> None:
                    # Two changes of the voters could give the node a majority without a promise.
                    await self._decide(suspicion, voters, [*conditions, same_voters])

                await self._try_drop(node, decide)
        except DrystoneError as error:
            log.warning("a suspicion came to nothing", node=node, reason=str(error))
            self._ended(node, "failed")

    async def server_is_still(self, node: str) -> bool:
        """Drop a node whose beacon lives and says that its server is gone or stands still."""
        if not self._deps.leadership.leads or node in {*self._running, *self._asking}:
            return False
        # Asked first: a suspicion is written, and withdrawn, by transactions.
        task = asyncio.create_task(self._take_lease(node))
        self._asking[node] = task
        task.add_done_callback(partial(self._let_go, node))
        await asyncio.wait((task,))
        if task.cancelled():
            return False
        error = task.exception()
        if error is not None:
            log.warning("a still server was not dropped", node=node, reason=repr(error))
            return False
        return task.result()

    def _let_go(self, node: str, task: asyncio.Task[bool]) -> None:
        if self._asking.get(node) is task:
            del self._asking[node]
        if self._running.get(node) is task:
            del self._running[node]

    async def _take_lease(self, node: str) -> bool:
        # The process that has the drives registered before it opened them. One with a beacon
        # inside gets its leases there, and no other beacon may speak for it.
        found = await read_record(self._deps.store, keys.node(node), Node)
        instance = found[0].page_instance if found else 0
        if not instance or not await self._deps.commander.revoke(node, instance, 0):
            return False
        if node in self._running:
            return False  # its voters did not hear it meanwhile, and need nobody's help
        self._running[node] = self._asking.pop(node)
        dropped = False

        async def decide(suspicion: Suspicion, conditions: list[Compare]) -> None:
            nonlocal dropped
            proven = self._deps.monotonic()
            if not await self._deps.commander.revoke(node, instance, suspicion.round):
                log.info("the server moves again", node=node)
                self._ended(node, "moves")
                return
            evidence = Evidence("its beacon says that its server is gone or stands still", proven)
            await self._deps.judge.drop_node(node, evidence, conditions=conditions)
            dropped = True
            self._ended(node, "dropped")

        try:
            if await self._deps.judge.has_members(node):
                await self._try_drop(node, decide)
        except DrystoneError as error:
            log.warning("a suspicion came to nothing", node=node, reason=str(error))
        return dropped

    async def _try_drop(self, node: str, decide: Decide) -> None:
        mine = self._deps.leadership.compare()
        try:
            suspicion = await suspect(self._deps.store, node, [mine])
        except DrystoneError:
            self._leave()  # it may have been written, with its answer lost
            raise
        if suspicion is None:
            # No other task is at this node: a key that stands was left by one that failed.
            await self._withdraw(node)
            return
        try:
            await decide(suspicion, [stands(suspicion)])
        finally:
            await asyncio.shield(self._withdraw(node))

    async def _decide(
        self, suspicion: Suspicion, voters: Voters, conditions: list[Compare]
    ) -> None:
        await self._tell()
        promised = await self._collect(suspicion, voters)
        if promised is None:
            log.info("no majority promised: the node is heard", node=suspicion.node)
            self._ended(suspicion.node, "heard")
            return
        # From the last promise on nobody of a majority renews the lease; then it must be over.
        await self._deps.sleep(max(0.0, promised + PROMISE_WAIT_S - self._deps.monotonic()))
        evidence = Evidence("silent to a majority", promised)
        await self._deps.judge.drop_node(suspicion.node, evidence, conditions=conditions)
        self._ended(suspicion.node, "dropped")

    def _ended(self, node: str, outcome: str) -> None:
        for call in self.on_outcome:
            call(node, outcome)

    async def _collect(self, suspicion: Suspicion, voters: Voters) -> float | None:
        """When the last promise of a majority came, or None."""
        promised: set[str] = set()
        deadline = self._deps.monotonic() + PROMISES_S
        while self._deps.monotonic() < deadline:
            missing = [v for v in voters.nodes if v not in promised and v != suspicion.node]
            answers = await asyncio.gather(
                *(self._deps.commander.promise(v, suspicion, voters.version) for v in missing)
            )
            promised.update(v for v, ok in zip(missing, answers, strict=True) if ok)
            if len(promised) >= majority(voters.nodes):
                return self._deps.monotonic()
            await self._deps.sleep(RETRY_S)
        return None

    async def _withdraw(self, node: str) -> None:
        # The key goes first, then the voters are freed: never the other way round (B13).
        try:
            await self._deps.store.txn([], [Delete(keys.suspect(node))])
            await self._tell()
        except DrystoneError:
            self._leave()
            raise

    def _leave(self) -> None:
        # Also where the key is gone with the answer lost: then nobody was told.
        self._untold = True
        for call in self.on_left:
            call()

    async def _tell(self) -> None:
        message = await self.suspects_message()
        for session in self._deps.sessions.beacons():
            session.send(message)
