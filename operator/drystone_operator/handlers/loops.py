"""The two loops: rounds over everything, kicked or by time; and fail-over beside them."""

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
from drystone_operator.resources.base import Platform

GATHER_S: Final = 0.3
"""After a kick, so that one rollout of thirty pods is a few rounds and not thirty."""

ROUND_S_MAX: Final = 120.0
"""A round that takes longer hangs in something without a deadline: it is cut off and told, before
`/healthz` says no for it (`healthy_s`) and the operator is restarted."""

EMPTY: Final = World({}, (), (), ())

_log = get_logger(__name__)


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
            good = True
            for body in world.objects["StorageCluster"]:
                good &= await self._guarded("round_failed", self._rounds.once(world, body))
            self.pulse.round_at = self._monotonic()
            self._metrics.round(good)
            self._metrics.objects({k: len(found) for k, found in world.objects.items()})
            self._metrics.missing(_missing(world))
            await self._wait()

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._resync_s):
                await self._kicked.wait()
        await asyncio.sleep(GATHER_S)
        self._kicked.clear()

    async def _failover_loop(self) -> None:
        while True:
            world = self._watched.world() if self.started else EMPTY
            for body in world.objects.get("StorageCluster", ()):
                await self._guarded("failover_failed", self._failover(world, body))
            self._metrics.failovers(self._steps(world))
            self.pulse.failover_at = self._monotonic()
            await asyncio.sleep(self._tick_s)

    async def _failover(self, world: World, body: dict[str, object]) -> None:
        build = parse.cluster(body, self._platform)
        await self._failovers.once(world, build)

    def _steps(self, world: World) -> list[str]:
        """Where the nodes of all StorageClusters are that are not well."""
        return [
            decision.step.value
            for which in map(_which, world.objects.get("StorageCluster", ()))
            for decision in self._failovers.decisions(*which).values()
        ]

    async def _guarded(self, event: str, work: Awaitable[None]) -> bool:
        """One failure must not end the loop: the next turn looks at everything anew."""
        try:
            async with asyncio.timeout(ROUND_S_MAX):
                await work
        except DrystoneError as error:
            self._tell(event, str(error))
        except TimeoutError:
            self._tell(event, f"cut off after {ROUND_S_MAX:g} s")
        except Exception:  # noqa: BLE001 - a defect of ours: told with its trace, and survived
            if event == "round_failed":
                _log.exception("round_failed")
            else:
                _log.exception("failover_failed")
        else:
            return True
        return False

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
