"""HTTP over TLS for clients that live longer than the CA certificates they began with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

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
        except BaseException:
            await self._ended()
            raise
        return httpx.Response(
            answer.status_code,
            headers=answer.headers,
            # Only when it was read, or given up, does nothing hold on to an old connection.
            stream=_Noted(answer, self._ended),
            extensions=answer.extensions,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self._close_left()
        await self._inner.aclose()

    async def _ended(self) -> None:
        self._calls -= 1
        if not self._calls:
            await self._close_left()

    async def _close_left(self) -> None:
        left, self._left = self._left, []
        for transport in left:
            await transport.aclose()


class _Noted(httpx.AsyncByteStream):
    """The bytes of an answer; whoever asked closes them once."""

    def __init__(self, answer: httpx.Response, ended: Callable[[], Awaitable[None]]) -> None:
        self._answer = answer
        self._ended = ended
        self._open = True

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """As they come, packed."""
        async for piece in self._answer.aiter_raw():
            yield piece

    async def aclose(self) -> None:
        """Let the connection go."""
        if not self._open:
            return
        self._open = False
        try:
            await self._answer.aclose()
        finally:
            await self._ended()
