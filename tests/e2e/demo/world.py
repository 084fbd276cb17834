"""What every step works on: the cluster, its CSI plugin, the volumes and what is on them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from tests.e2e.demo.report import FailedCheckError, Report, mib, seconds
from tests.e2e.lib.cluster import Cluster
from tests.e2e.lib.csi import RAW, Csi, CsiVolume
from tests.e2e.lib.ticker import Stalls
from tests.e2e.lib.writer import Region
from tests.e2e.lib.writer import Report as WriterReport

NODE: Final = "block-1"
OTHER_NODE: Final = "block-2"
LOAD_STOP_S: Final = 90.0
WRITER_SLOTS: Final = 2048


class Known(Protocol):
    """Known data on a volume."""

    @property
    def bytes_known(self) -> int:
        """Bytes written so far."""

    def add(self) -> None:
        """Write some more, durably."""

    def verify(self) -> int:
        """Bytes checked; ValueError on a difference."""


@dataclass(slots=True)
class Volume:
    """A volume in use. ``where``: folder of the mount, device or NBD address."""

    csi: CsiVolume
    staging: Path
    target: Path
    where: str = ""
    known: Known | None = None


@dataclass(slots=True)
class World:
    """Built by the first steps, used by all others."""

    report: Report
    cluster: Cluster
    csi: Csi
    mounted: bool
    volumes: dict[str, Volume] = field(default_factory=dict)
    used_at_start: int = 0
    changed_bytes: int = 0
    writers: int = 0

    @property
    def raw(self) -> Volume:
        """The volume without a file system."""
        return self.volumes[RAW]

    def bytes_known(self) -> int:
        """Known bytes on all volumes, the measuring writer's not counted."""
        return sum(v.known.bytes_known for v in self.volumes.values() if v.known is not None)

    def writer_region(self) -> Region:
        """Where the next measuring writer works: the first blocks of the raw volume."""
        self.writers += 1
        return Region(self.raw.where, 0, WRITER_SLOTS, seed=self.writers)

    def verify_all(self) -> None:
        """Check every known byte of every volume."""
        for kind, volume in self.volumes.items():
            if volume.known is not None:
                self.check_content(f"volume {kind}", volume.known.verify)

    def check_content(self, what: str, verify: Callable[[], int]) -> None:
        """Run one check of content; a difference ends the demonstration."""
        try:
            checked = verify()
        except ValueError as error:
            raise FailedCheckError(f"content of {what}: {error}") from error
        self.report.line(f"ok: {what}: {mib(checked)} read back, every byte right")

    def show_gap(self, name: str, seen: WriterReport, stalls: Stalls) -> None:
        """Print the longest write beside what the host itself took away meanwhile."""
        lost = stalls.within(*seen.gap)
        text = f"{seconds(seen.gap_s)} (host stalls in it: {seconds(lost)})"
        self.report.figure(f"longest write gap, {name}", text)

    @contextmanager
    def load(self) -> Iterator[None]:
        """Keep adding known data to every volume that has a file system while inside."""
        busy = [v for v in self.volumes.values() if v.known is not None and v is not self.raw]
        stop = threading.Event()
        errors: list[OSError] = []

        def run() -> None:
            while not stop.is_set():
                for volume in busy:
                    try:
                        if volume.known is not None:
                            volume.known.add()
                    except OSError as error:
                        errors.append(error)
                        return
                stop.wait(0.1)  # data enough to check, and CPU left for the measured writer

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(LOAD_STOP_S)
        if thread.is_alive():
            raise FailedCheckError("a write to a mounted volume does not end")
        if errors:
            raise FailedCheckError(f"a write to a mounted volume failed: {errors[0]}")


def is_root() -> bool:
    """Whether this process may mount."""
    return os.geteuid() == 0
