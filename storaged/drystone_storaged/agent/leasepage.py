"""The lease page that server and beacon of a node share, as far as their Python sides meet it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from drystone_common.errors import ConflictError, UnavailableError
from drystone_storaged.agent.pump import Event

_T = TypeVar("_T")


def attached(attach: Callable[[], _T]) -> _T:
    """Map the page; what the native side refuses is an error for people."""
    try:
        return attach()
    except Exception as error:
        raise ConflictError(
            str(error),
            code="lease_page_unusable",
            hint="server and beacon of one node name the same run_dir, and nobody else does",
        ) from error


class PageWatch:
    """The end of this process when the page's file is gone: the other side maps another one."""

    def __init__(self) -> None:
        self._lost = asyncio.Event()

    def on_lost(self, _event: Event) -> None:
        """Take `lease_page_lost`."""
        self._lost.set()

    async def failure(self) -> None:
        """Wait for it, and raise it."""
        await self._lost.wait()
        raise UnavailableError(
            "the lease page was removed or replaced",
            code="lease_page_lost",
            hint="whoever cleans run_dir must leave it alone; start this process again",
        )
