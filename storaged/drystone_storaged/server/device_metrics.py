"""Figures of the devices of this node and of the drives that are wanted of it."""

from __future__ import annotations

from typing import Final

from drystone_common.metrics import Metrics
from drystone_storaged.proto import control_pb2
from drystone_storaged.server.examine import State
from drystone_storaged.server.fleet import Fleet

PHASES: Final = {
    control_pb2.WANTED_PHASE_PENDING: "pending",
    control_pb2.WANTED_PHASE_FORMATTING: "formatting",
    control_pb2.WANTED_PHASE_OPENING: "opening",
    control_pb2.WANTED_PHASE_UP: "up",
    control_pb2.WANTED_PHASE_REFUSED: "refused",
}


class DeviceMetrics:
    """Gauges by state, from the last look."""

    def __init__(self, metrics: Metrics, fleet: Fleet) -> None:
        self._fleet = fleet
        self._devices = metrics.gauge("devices", "Devices that could be drives.", ["state"])
        self._wanted = metrics.gauge("wanted_drives", "Drives asked of this node.", ["state"])

    def refresh(self) -> None:
        """Bring the gauges up to date; a state without any is 0, so that an alert sees it end."""
        seen = [s.finding.state for s in self._fleet.seen()]
        for state in State:
            if state is not State.GONE:
                self._devices.labels(state.value).set(seen.count(state))
        phases = [s.phase for s in self._fleet.states()]
        for phase, name in PHASES.items():
            self._wanted.labels(name).set(phases.count(phase))
