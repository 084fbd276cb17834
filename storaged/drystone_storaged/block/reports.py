"""Complaints about drives on their way to the manager: a hint each, at most one a second."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger
from drystone_storaged.agent.control import Control
from drystone_storaged.agent.pump import Event
from drystone_storaged.cluster.pgmap import decode_map
from drystone_storaged.proto import control_pb2

GAP_S: Final = 1.0  # per drive and kind; the native side repeats while the trouble lasts
TIMEOUT_S: Final = 2.0  # evidence is void after 5 s: an older report is worth nothing
PENDING_MAX: Final = 256  # distinct complaints at once: more drives than a client talks to

_KINDS: Final = {
    "stall": control_pb2.FAILURE_KIND_STALL,
    "refused": control_pb2.FAILURE_KIND_REFUSED,
    "error": control_pb2.FAILURE_KIND_ERROR,
    "full": control_pb2.FAILURE_KIND_ERROR,
}

_log = get_logger(__name__)


class Reports:
    """Sends failure reports; ``newest_map`` gives the encoded map that was applied last."""

    def __init__(self, control: Control, newest_map: Callable[[], bytes]) -> None:
        self._control = control
        self._map = newest_map
        self._sent_at: dict[tuple[int, str], float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.bad_blocks = 0

    def on_report(self, event: Event) -> None:
        """Take `report`."""
        what = event["what"]
        if what == "bad_block":
            self.bad_blocks += 1
            _log.warning("bad_block_bypassed", **dict(event))
        if what not in _KINDS or len(self._tasks) >= PENDING_MAX:
            return
        key = (event["drive"], what)
        now = time.monotonic()
        if now - self._sent_at.get(key, -GAP_S) < GAP_S:
            return
        self._sent_at[key] = now
        task = asyncio.get_running_loop().create_task(self._send(event))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _send(self, event: Event) -> None:
        request = control_pb2.ReportFailureRequest(
            drive=event["drive"],
            kind=_KINDS[event["what"]],
            drive_nonce=self._nonce_of(event["drive"]),
            detail=f"volume {event['volume']:016x}",
        )
        try:
            await self._control.call(
                lambda stub: stub.ReportFailure, request, timeout_s=TIMEOUT_S, within_s=TIMEOUT_S
            )
        except DrystoneError as error:
            _log.info("report_not_taken", code=error.code, drive=event["drive"])

    def _nonce_of(self, drive: int) -> int:
        """Which open of the drive this is about; 0 when it is not known."""
        data = self._map()
        drives = decode_map(data).drives if data else ()
        return next((d.nonce for d in drives if d.id == drive), 0)
