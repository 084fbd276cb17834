"""An orderly end at SIGTERM and SIGHUP: what was started is stopped, what was made is removed."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Final, Never

SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)


def end_in_order() -> None:
    """From now on these signals unwind the program, as Ctrl-C does.

    Only the first one: a second must not cut the removal short.
    """
    for number in SIGNALS:
        signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> Never:
    for each in SIGNALS:
        # Not SIG_IGN, which every program started from here on would inherit.
        signal.signal(each, _nothing)
    raise SystemExit(128 + number)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    pass
