"""Is the process behind these addresses dead? Only a refusal from a living kernel proves it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import Enum
from typing import Final, Protocol

TIMEOUT_S: Final = 0.5  # a refusal comes in microseconds; silence decides nothing however long


class Liveness(Enum):
    """What a probe found."""

    REFUSED = "refused"
    LISTENING = "listening"
    SILENT = "silent"


class Prober(Protocol):
    """Asks one address."""

    async def probe(self, address: str) -> Liveness:
        """Look whether somebody listens there."""


class TcpProber:
    """Connects by TCP and closes at once."""

    async def probe(self, address: str) -> Liveness:
        """Connect; refused = nobody listens, so the process is dead or never served."""
        host, _, port = address.rpartition(":")
        try:
            async with asyncio.timeout(TIMEOUT_S):
                _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
        except ConnectionRefusedError:
            return Liveness.REFUSED
        except (OSError, TimeoutError, ValueError, OverflowError):
            return Liveness.SILENT
        writer.transport.abort()
        return Liveness.LISTENING


async def all_refused(prober: Prober, addresses: Sequence[str]) -> bool:
    """Whether every address of a process refuses: it is dead."""
    if not addresses:
        return False
    found = await asyncio.gather(*(prober.probe(address) for address in addresses))
    return all(result is Liveness.REFUSED for result in found)
