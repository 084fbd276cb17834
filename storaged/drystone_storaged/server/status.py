"""What the server tells of its drives every few seconds, and the same figures as metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from drystone_common.metrics import Metrics
from drystone_storaged.agent.mapfeed import MapFeed
from drystone_storaged.agent.pump import Event
from drystone_storaged.agent.strangers import Strangers
from drystone_storaged.proto import control_pb2
from drystone_storaged.server.core import ServerCore
from drystone_storaged.server.drive import DriveKeeper, DriveState
from drystone_storaged.server.figures import DriveFigures
from drystone_storaged.server.rhythm import Rhythm
from drystone_storaged.server.stuck import StuckCopies, stuck_copy
from drystone_storaged.server.usage import NOWHERE, DriveUsage, PgKey, first_in_sync

SLOT_BYTES: Final = 4096
PERIOD_S: Final = 5.0  # the interface's figure
UNCHANGED_S: Final = 20.0
"""What did not change is told less often: a message wakes threads at both ends, and the manager
takes figures for history after 30 s. While a drive is slow everything is told each period."""

HURRY_S: Final = 1.0  # at most one status a second when much changes, or a drive becomes slow
LAYERS_MAX: Final = 10_000  # per message, the interface's limit


@dataclass(slots=True)
class Counted:
    """What is counted for one drive since it was opened."""

    usage: DriveUsage = field(default_factory=DriveUsage)
    stuck: StuckCopies = field(default_factory=StuckCopies)


class StatusReporter:
    """Collects figures and sends them; ``send`` takes one message for the session."""

    def __init__(
        self,
        core: ServerCore,
        drives: Sequence[DriveKeeper],
        maps: MapFeed,
        send: Callable[[control_pb2.SessionUp], None],
    ) -> None:
        self._core = core
        self._drives = drives
        self._maps = maps
        self._first: Mapping[int, frozenset[PgKey]] = {}
        self._first_revision = 0
        self._send = send
        self._figures: dict[int, Counted] = defaultdict(Counted)
        self._complete = True
        self._told: control_pb2.Status | None = None
        self._told_at = 0.0
        self._hurry = asyncio.Event()
        self._slowed = False
        self._rhythm = Rhythm(PERIOD_S, HURRY_S)
        self._strangers = Strangers()
        self.last: Mapping[int, control_pb2.DriveStatus] = {}
        self.stats: Mapping[int, Mapping[str, Any]] = {}

    def session_opened(self) -> None:
        """Everything must be told again, soon."""
        self._complete = True
        self._told = None
        self._hurry.set()

    def refusals_changed(self) -> None:
        """A server that serves a drive less, or again, says so soon."""
        self._hurry.set()

    def drive_opened(self, drive: int) -> None:
        """The drive counts its layers anew."""
        self._figures[drive] = Counted()
        self._complete = True
        self._hurry.set()

    def device_slowed(self) -> None:
        """A device has become slow: tell it now, and in the periods counted from now."""
        self._slowed = True
        self._hurry.set()

    def on_report(self, event: Event) -> None:
        """Take a `report` that changes figures."""
        figures = self._figures[event["drive"]]
        what = event["what"]
        if what == "usage":
            for layer, pool, pg, delta in event["layers"]:
                figures.usage.add(layer, (pool, pg), delta)
        elif what == "resync":
            self._hurry.set()
        elif what == "copy_stuck":
            figures.stuck.take(stuck_copy(event))
            self._hurry.set()
        elif what == "copy_freed":
            figures.stuck.free(event["pool"], event["pg"])
            self._hurry.set()

    async def run(self) -> None:
        """Send a status every period, sooner after large changes, until cancelled."""
        while True:
            slowed, self._slowed = self._slowed, False
            self._rhythm.begins(time.monotonic(), slow=slowed)
            messages = await self._messages()
            if self._news(messages):
                for message in messages:
                    self._send(control_pb2.SessionUp(status=message))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._rhythm.left_s(time.monotonic())):
                    await self._hurry.wait()
            await asyncio.sleep(self._rhythm.rest_s(time.monotonic()))
            self._hurry.clear()

    def _news(self, messages: Sequence[control_pb2.Status]) -> bool:
        """Whether these must be sent: they are new, what was told is old, or a drive is slow."""
        now = time.monotonic()
        # The manager counts the reports in which a drive was slow, also where they are the same.
        slow = any(stats["device"]["slow"] for stats in self.stats.values())
        if not slow and messages == [self._told] and now - self._told_at < UNCHANGED_S:
            return False
        self._told, self._told_at = messages[0], now
        return True

    def refused(self) -> Counter[str]:
        """Drives that are not served, by the code of the reason."""
        return Counter(drive.code for drive in self._drives if drive.refusal is not None)

    def stuck(self, drive: int) -> int:
        """Placement groups whose copy to a drive does not go on."""
        return len(self._figures[drive].stuck.groups)

    async def probe(self, drive: int) -> control_pb2.DriveStatus | None:
        """Figures of now; None when the drive's thread does not answer in time."""
        return (await self._read()).get(drive)

    async def _read(self) -> dict[int, control_pb2.DriveStatus]:
        text = await asyncio.to_thread(self._core.stats)
        found: dict[str, dict[str, Any]] = json.loads(text)["drives"]
        serving = {d.number for d in self._drives if d.state is DriveState.SERVING}
        mine = {int(number): stats for number, stats in found.items() if int(number) in serving}
        self.stats = mine
        self.last = {number: self._status(number, stats) for number, stats in mine.items()}
        for number, stats in mine.items():
            self._strangers.connections(number, stats["refused"])
            self._strangers.denied(number, stats["counters"]["denied"])
        return dict(self.last)

    def _status(self, number: int, stats: Mapping[str, Any]) -> control_pb2.DriveStatus:
        space, counters = stats["space"], stats["counters"]
        figures = self._figures[number]
        return control_pb2.DriveStatus(
            drive=number,
            capacity_bytes=space["total_slots"] * SLOT_BYTES,
            used_bytes=space["live_slots"] * SLOT_BYTES,
            reserved_bytes=(space["granted_slots"] + space["reserve_slots"]) * SLOT_BYTES,
            oldest_io_us=stats["oldest_io_us"],
            p99_us=stats["device"]["p99_us"],
            resync_bytes_left=stats["resync_bytes_left"],
            resync_bytes_done=counters["resync_bytes"],
            # What was written anew since is neither: the difference of both is bad still.
            bad_blocks=counters["healed"] + counters["unhealed"],
            healed_blocks=counters["healed"],
            stuck_copies=figures.stuck.sentences(),
            recent_ops=stats["device"]["ops"],
        )

    async def _messages(self) -> list[control_pb2.Status]:
        drives = list((await self._read()).values())
        revision = await self._recount()
        complete, self._complete = self._complete, False
        usages = list(self._usages(everything=complete))
        first, rest = usages[:LAYERS_MAX], usages[LAYERS_MAX:]
        messages = [
            control_pb2.Status(
                drives=drives,
                layers=first,
                layers_complete=complete,
                map_revision=revision,
                refused=control_pb2.RefusedDrives(
                    drives=[d.refusal for d in self._drives if d.refusal is not None]
                ),
            )
        ]
        more = (rest[start : start + LAYERS_MAX] for start in range(0, len(rest), LAYERS_MAX))
        return [*messages, *(control_pb2.Status(layers=layers) for layers in more)]

    def _usages(self, *, everything: bool) -> Iterator[control_pb2.LayerUsage]:
        for number, figures in self._figures.items():
            figures.usage.count(self._first.get(number, NOWHERE))
            for layer, slots in figures.usage.take(everything=everything):
                yield control_pb2.LayerUsage(
                    drive=number, layer=layer, mapped_bytes=max(slots, 0) * SLOT_BYTES
                )

    async def _recount(self) -> int:
        """Look who is first in sync in the newest map; gives its revision."""
        revision, data = self._maps.revision, self._maps.data
        if revision != self._first_revision:
            self._first = await asyncio.to_thread(first_in_sync, data)
            self._first_revision = revision
        return revision


class ServerMetrics:
    """Gauges of the drives, from the newest status."""

    def __init__(self, metrics: Metrics, reporter: StatusReporter) -> None:
        self._reporter = reporter
        labels = ["drive"]
        self._gauges = {
            name: metrics.gauge(f"drive_{name}", text, labels)
            for name, text in (
                ("capacity_bytes", "Usable bytes of the drive."),
                ("used_bytes", "Bytes of live data and headers."),
                ("reserved_bytes", "Bytes kept for cleaning and for granted writes."),
                ("bad_blocks", "Blocks found bad since the open that no later write replaced."),
                ("healed_blocks", "Of those, repaired from another copy."),
                ("resync_bytes_left", "Bytes to copy until the drive is in sync."),
            )
        }
        self._oldest = metrics.gauge(
            "drive_oldest_io_seconds", "Age of the oldest operation at the device.", labels
        )
        self._stuck = metrics.gauge(
            "drive_copies_stuck", "Placement groups whose copy to the drive does not go on.", labels
        )
        self._counters = metrics.gauge(
            "engine_count", "Counters of the engine since the open.", ["drive", "counter"]
        )
        self._refused = metrics.gauge(
            "refused_drives", "Drives of the node that are not served, by reason.", ["code"]
        )
        self._figures = DriveFigures()
        metrics.registry.register(self._figures)

    def refresh(self) -> None:
        """Bring the gauges up to date with the newest status."""
        for number, status in self._reporter.last.items():
            for name, gauge in self._gauges.items():
                gauge.labels(str(number)).set(getattr(status, name))
            self._oldest.labels(str(number)).set(status.oldest_io_us / 1e6)
            self._stuck.labels(str(number)).set(self._reporter.stuck(number))
        self._refused.clear()
        for code, count in self._reporter.refused().items():
            self._refused.labels(code).set(count)
        self._figures.take(self._reporter.stats)
        for number, stats in self._reporter.stats.items():
            for name, value in stats["counters"].items():
                self._counters.labels(str(number), name).set(value)
