"""Who complains about a drive that is being filled, again and again, although it does well.

A joiner has no lease and serves nobody, so the first complaint drops it (§4.5). A consumer that
alone does not reach it would so keep a placement group from ever becoming whole: it joins, is
complained about, is dropped, joins. RELAY carries that consumer's writes meanwhile (ADR 16).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

FORGET_S: Final = 60.0
"""Without another complaint; who does not reach a drive says so in each second of writing."""

STUCK_S: Final = 15.0
"""A copy without progress: of three reports of figures none shows any. The writes may wait too."""

BELIEVED_S: Final = 300.0
"""After a copy that made none: each complaint counts again. So RELAY that does not help costs
writes of one consumer 15 s in 5 minutes, and a copy that only seemed stuck is tried then."""

PAIRS_MAX: Final = 4_096  # reporters x drives; who is forgotten is believed, which is the safe side

Progress = tuple[int, int]
"""Bytes that a drive has copied, and placement groups that it still joins."""


@dataclass(frozen=True, slots=True)
class _Complaint:
    name: str
    last_s: float
    progress: Progress | None = None
    progress_s: float = 0.0
    """When progress was seen last, while complaints of this reporter are only noted."""
    believed_until_s: float = 0.0


class Complaints:
    """By drive and reporter. Time is passed in; nothing is asked or written here."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], _Complaint] = {}

    def is_first(self, drive: int, reporter: str, name: str, now_s: float) -> bool:
        """Take note of a complaint about a joiner; True = it drops the joiner, however it does."""
        key = (drive, reporter)
        known = self._known.get(key)
        if known is None or now_s - known.last_s > FORGET_S:
            self._forget_old(now_s)
            self._known[key] = _Complaint(name, now_s)
            return True
        self._known[key] = replace(known, last_s=now_s)
        return now_s < known.believed_until_s

    def is_stuck(self, drive: int, reporter: str, progress: Progress, now_s: float) -> bool:
        """Of one that does well by its own account: whether its copy makes no progress.

        A copy that goes on proves that members of the group reach the drive, and RELAY does too.
        """
        key = (drive, reporter)
        known = self._known.get(key)
        if known is None:
            return True  # cleared meanwhile: who is not known is believed
        if known.progress != progress:
            known = replace(known, progress=progress, progress_s=now_s)
        elif now_s - known.progress_s > STUCK_S:
            self._known[key] = replace(known, progress=None, believed_until_s=now_s + BELIEVED_S)
            return True
        self._known[key] = known
        return False

    def dropped(self, drive: int) -> None:
        """The next copy of the drive begins anew, for whoever complains of it."""
        for key, known in self._known.items():
            if key[0] == drive:
                self._known[key] = replace(known, progress=None)

    def unreached(self, now_s: float) -> list[tuple[str, int]]:
        """Who does not reach which drive, while it is only noted."""
        return sorted(
            (known.name, drive)
            for (drive, _), known in self._known.items()
            if known.progress is not None and now_s - known.last_s <= FORGET_S
        )

    def clear(self) -> None:
        """Nothing is known of anybody: everybody is believed."""
        self._known.clear()

    def _forget_old(self, now_s: float) -> None:
        if len(self._known) < PAIRS_MAX:
            return
        self._known = {k: c for k, c in self._known.items() if now_s - c.last_s <= FORGET_S}
        if len(self._known) >= PAIRS_MAX:
            self._known.clear()
