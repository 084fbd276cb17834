"""`GET /metrics`, `/healthz` and nothing else: a scrape endpoint without a web framework."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from drystone_common.logs import get_logger
from drystone_common.metrics import CONTENT_TYPE, Metrics

REQUEST_BYTES_MAX: Final = 8192  # request line and headers of any scraper
REQUEST_TIMEOUT_S: Final = 5.0
CONNECTIONS_MAX: Final = 16  # a few scrapers; more is an attack on memory

_log = get_logger(__name__)


@asynccontextmanager
async def serving_metrics(
    metrics: Metrics, listen: str, refresh: Callable[[], None] | None = None
) -> AsyncIterator[str]:
    """Serve on ``host:port`` (empty = not at all); gives the real address.

    ``refresh`` brings gauges up to date before each answer; it must not block.
    """
    if not listen:
        yield ""
        return
    host, _, port = listen.rpartition(":")
    slots = asyncio.Semaphore(CONNECTIONS_MAX)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            async with slots, asyncio.timeout(REQUEST_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_respond(head, metrics, refresh))
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(
        answer, host.strip("[]") or None, int(port), limit=REQUEST_BYTES_MAX
    )
    address = "{}:{}".format(*server.sockets[0].getsockname()[:2])
    _log.info("metrics_serving", address=address)
    try:
        yield address
    finally:
        server.close()


def _respond(head: bytes, metrics: Metrics, refresh: Callable[[], None] | None) -> bytes:
    words = head.split(b"\r\n", 1)[0].split()
    path = words[1].split(b"?")[0] if len(words) > 1 and words[0] == b"GET" else b""
    if path == b"/metrics":
        if refresh is not None:
            refresh()
        return _message("200 OK", CONTENT_TYPE, metrics.render())
    if path == b"/healthz":
        return _message("200 OK", "text/plain", b"ok\n")
    return _message("404 Not Found", "text/plain", b"try /metrics\n")


def _message(status: str, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
