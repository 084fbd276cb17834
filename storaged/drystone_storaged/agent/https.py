"""HTTP over TLS for clients that live longer than the CA certificates they began with."""

from __future__ import annotations

import httpx

from drystone_storaged.agent.trust import Trust


class FollowingTransport(httpx.AsyncBaseTransport):
    """HTTP that verifies with what the file says now; for clients that live long."""

    def __init__(self, trust: Trust) -> None:
        self._trust = trust
        self._inner = httpx.AsyncHTTPTransport(verify=trust.context())
        self._calls = 0
        self._left: list[httpx.AsyncHTTPTransport] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; after a change of the file over a new connection."""
        if self._trust.refresh():
            self._left.append(self._inner)
            self._inner = httpx.AsyncHTTPTransport(verify=self._trust.context())
        self._calls += 1
        try:
            answer = await self._inner.handle_async_request(request)
            await answer.aread()  # none is read in parts: nothing holds on to an old connection
            return answer
        finally:
            self._calls -= 1
            if not self._calls:
                await self._close_left()

    async def aclose(self) -> None:
        """Close every connection."""
        await self._close_left()
        await self._inner.aclose()

    async def _close_left(self) -> None:
        left, self._left = self._left, []
        for transport in left:
            await transport.aclose()
