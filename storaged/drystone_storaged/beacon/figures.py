"""What the beacon's thread counts, for `/metrics`."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from drystone_common.logs import get_logger
from drystone_common.metrics import PREFIX
from drystone_storaged.agent.strangers import Strangers
from drystone_storaged.beacon.core import BeaconCore

_log = get_logger(__name__)

US: Final = 1e6
LOOK_S: Final = 60.0
"""Unasked, for the log: as often as it tells of datagrams that were refused."""


class BeaconFigures(Collector):
    """The native figures as they stood at the newest look.

    A look is taken when somebody reads, and shown from the next answer on: it asks a thread, for
    which an answer must not wait. Where nobody reads there is one a minute, for the log.
    """

    def __init__(self, core: BeaconCore) -> None:
        self._core = core
        self._stats: Mapping[str, Any] = {"refused": {}, "lease_margin_us": None}
        self._strangers = Strangers()
        self._old = False  # and it was told
        self._wanted = asyncio.Event()
        self._wanted.set()

    def scraped(self) -> None:
        """Somebody reads: the next answer shall be fresh."""
        self._wanted.set()

    async def run(self) -> None:
        """Look whenever somebody read, and now and then, until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wanted.wait()
            self._wanted.clear()
            try:
                self._stats = json.loads(await asyncio.to_thread(self._core.stats))
                self._strangers.datagrams(self._stats["refused"])
            except Exception as error:  # noqa: BLE001 - heartbeats do not end for figures
                if not self._old:
                    _log.warning("figures_are_old", reason=str(error))
                self._old = True
            else:
                self._old = False

    def collect(self) -> Iterable[Metric]:
        """Give every family, also before the first look."""
        refused = CounterMetricFamily(
            f"{PREFIX}_beacon_datagrams_refused",
            "Datagrams that were no heartbeat to be believed, by reason.",
            labels=["reason"],
        )
        for reason, count in self._stats["refused"].items():
            refused.add_metric([reason], count)
        yield refused
        margin = GaugeMetricFamily(
            f"{PREFIX}_beacon_lease_margin_seconds",
            "Time that the shortest read lease lent to the server still has.",
        )
        if self._stats["lease_margin_us"] is not None:
            margin.add_metric([], self._stats["lease_margin_us"] / US)
        yield margin
