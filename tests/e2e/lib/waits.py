"""Waiting on a condition, with a deadline, and saying what did not come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar

POLL_S: Final = 0.05  # fine beside waits of seconds, and no load of its own

_T = TypeVar("_T")


class NotSeenError(Exception):
    """The condition did not come true in time."""


def wait_for(ask: Callable[[], _T], what: str, deadline_s: float, poll_s: float = POLL_S) -> _T:
    """Ask until the answer is true and give it; ``NotSeenError`` names what was waited for."""
    end = time.monotonic() + deadline_s
    while True:
        found = ask()
        if found:
            return found
        if time.monotonic() > end:
            raise NotSeenError(f"not seen within {deadline_s:.0f} s: {what}")
        time.sleep(poll_s)
