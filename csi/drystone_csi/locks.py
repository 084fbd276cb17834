"""One operation at a time on a volume; a second one is told to come again, as CSI wants it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from drystone_csi.status import busy


class VolumeLocks:
    """Who is being worked on, in this process. Other processes are held off by the manager."""

    def __init__(self) -> None:
        self._held: set[str] = set()

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Hold ``key`` (a volume id, or a name that is being created) or raise ``busy``."""
        if key in self._held:
            raise busy(key)
        self._held.add(key)
        try:
            yield
        finally:
            self._held.discard(key)
