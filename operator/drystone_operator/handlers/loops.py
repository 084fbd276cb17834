"""The two loops: rounds over everything, kicked or by time; and fail-over beside them.

Whatever is watched kicks when it changes, and so does the engine, which fail-over looks at. The
time of a round that nothing kicks is short only while something is under way.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_operator.handlers import parse
from drystone_operator.handlers.failover import Failovers
from drystone_operator.handlers.rounds import Rounds
from drystone_operator.handlers.world import Watched, World
from drystone_operator.metrics import OperatorMetrics
from drystone_operator.resources.base import Build, Platform

GATHER_S: Final = 0.3
"""After a kick, so that one rollout of thirty pods is a few rounds and not thirty."""

SOON_S: Final = 2.0
"""To the next round while something is under way that tells nobody when it changes: a disk being
formatted, a volume that keeps a StorageCluster from being deleted."""

DOUBLINGS_MAX: Final = 10  # more than any `resync_s` in use: only that the number stays one

ROUND_S_MAX: Final = 120.0
"""A round that takes longer hangs in something without a deadline: it is cut off and told, before
`/healthz` says no for it (`healthy_s`) and the operator is restarted."""

EMPTY: Final = World({}, (), (), ())

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class End:
    """How a round ended: whether well, and whether the next one is due soon."""

    good: bool
    soon: bool


@dataclass(slots=True)
class Pulse:
    """When something last came to its end, for probes."""

    round_at: float
    failover_at: float

    def recent(self, now: float, healthy_s: float) -> bool:
        """Whether both loops finished a turn lately."""
        return now - min(self.round_at, self.failover_at) < healthy_s


class Loops:
    """Runs rounds until cancelled."""

    def __init__(
        self,
        watched: Watched,
        rounds: Rounds,
        failovers: Failovers,
        metrics: OperatorMetrics,
        *,
        platform: Platform,
        resync_s: float,
        tick_s: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._watched = watched
        self._rounds = rounds
        self._failovers = failovers
        self._metrics = metrics
        self._platform = platform
        self._resync_s = resync_s
        self._tick_s = tick_s
        self._monotonic = monotonic
        self._kicked = asyncio.Event()
        self._failed = 0
        self._builds: dict[tuple[str, str], tuple[dict[str, Any], Build]] = {}
        self.started = False
        self.pulse = Pulse(monotonic(), monotonic())

    def kick(self) -> None:
        """Something changed: look soon."""
        self._kicked.set()

    async def run(self) -> None:
        """Both loops; whichever ends takes the other along."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._round_loop(), name="rounds")
            group.create_task(self._failover_loop(), name="failover")

    async def _round_loop(self) -> None:
        # Events are handed on only once every index is full: before that there is no world.
        await self._kicked.wait()
        self.started = True
        while True:
            world = self._watched.world()
            ends = [
                await self._guarded("round_failed", self._rounds.once(world, body))
                for body in world.objects["StorageCluster"]
            ]
            good = all(end.good for end in ends)
            self.pulse.round_at = self._monotonic()
            self._metrics.round(good)
            self._metrics.objects({k: len(found) for k, found in world.objects.items()})
            self._metrics.missing(_missing(world))
            self._metrics.conditions(_conditions(world))
            self._failed = 0 if good else self._failed + 1
            await self._wait(self._pause(soon=any(end.soon for end in ends)))

    def _pause(self, *, soon: bool) -> float:
        """Seconds to the next round: what fails is tried again soon, and less and less often.

        One StorageCluster that fails for long makes no other one wait, which is at something.
        """
        if soon:
            return min(self._resync_s, SOON_S)
        if not self._failed:
            return self._resync_s
        return min(self._resync_s, SOON_S * 2.0 ** min(self._failed, DOUBLINGS_MAX))

    async def _wait(self, longest_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(longest_s):
                await self._kicked.wait()
        await asyncio.sleep(GATHER_S)
        self._kicked.clear()

    async def _failover_loop(self) -> None:
        while True:
            world = self._watched.world() if self.started else EMPTY
            for body in world.objects.get("StorageCluster", ()):
                await self._guarded("failover_failed", self._failover(world, body))
            there = {_which(body) for body in world.objects.get("StorageCluster", ())}
            self._builds = {which: b for which, b in self._builds.items() if which in there}
            self._metrics.failovers(self._steps(world))
            self.pulse.failover_at = self._monotonic()
            await asyncio.sleep(self._tick_s)

    async def _failover(self, world: World, body: dict[str, Any]) -> None:
        await self._failovers.once(world, self._build(body))

    def _build(self, body: dict[str, Any]) -> Build:
        """What a StorageCluster wants; read again only where it is another than at the last look.

        The index gives the same object until something changes, and fail-over looks every second.
        """
        known = self._builds.get(_which(body))
        if known is None or known[0] is not body:
            known = body, parse.cluster(body, self._platform)
            self._builds[_which(body)] = known
        return known[1]

    def _steps(self, world: World) -> list[str]:
        """Where the nodes of all StorageClusters are that are not well."""
        return [
            decision.step.value
            for which in map(_which, world.objects.get("StorageCluster", ()))
            for decision in self._failovers.decisions(*which).values()
        ]

    async def _guarded(self, event: str, work: Awaitable[bool | None]) -> End:
        """One failure must not end the loop: the next turn looks at everything anew."""
        try:
            async with asyncio.timeout(ROUND_S_MAX):
                return End(good=True, soon=bool(await work))
        except DrystoneError as error:
            self._tell(event, str(error))
        except TimeoutError:
            self._tell(event, f"cut off after {ROUND_S_MAX:g} s")
        except Exception:  # noqa: BLE001 - a defect of ours: told with its trace, and survived
            if event == "round_failed":
                _log.exception("round_failed")
            else:
                _log.exception("failover_failed")
        return End(good=False, soon=False)

    def _tell(self, event: str, error: str) -> None:
        if event == "round_failed":
            _log.warning("round_failed", error=error)
        else:
            _log.warning("failover_failed", error=error)


def _which(body: Mapping[str, Any]) -> tuple[str, str]:
    """Namespace and name of a StorageCluster."""
    metadata = body["metadata"]
    return str(metadata["namespace"]), str(metadata["name"])


def _missing(world: World) -> dict[tuple[str, str, str], int]:
    """Pods that are not ready, of each workload of each StorageCluster."""
    return {
        (namespace, name, workload.component): max(0, workload.desired - workload.ready)
        for namespace, name in map(_which, world.objects.get("StorageCluster", ()))
        for workload in world.workloads_of(namespace, name)
    }


def _conditions(world: World) -> set[tuple[str, str, str, str, str]]:
    """What every StorageCluster says of itself, as it was before this round."""
    return {
        (*_which(body), str(one["type"]), str(one["status"]), str(one["reason"]))
        for body in world.objects.get("StorageCluster", ())
        for one in (body.get("status") or {}).get("conditions") or ()
    }
