"""`/healthz` and `/metrics` of the operator."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from drystone_common.logs import get_logger
from drystone_common.metrics import CONTENT_TYPE

_log = get_logger(__name__)


@asynccontextmanager
async def serving_health(
    listen: str, *, healthy: Callable[[], bool], render: Callable[[], bytes]
) -> AsyncIterator[str]:
    """Serve on ``host:port`` (empty = not at all); gives the real address."""
    if not listen:
        yield ""
        return

    async def healthz(_: web.Request) -> web.Response:
        if healthy():
            return web.Response(text="ok\n")
        return web.Response(status=503, text="no round was finished lately\n")

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=render(), headers={"Content-Type": CONTENT_TYPE})

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/metrics", metrics)
    # Access logs would be a line for each probe.
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    host, _, port = listen.rpartition(":")
    await web.TCPSite(runner, host.strip("[]") or None, int(port)).start()
    address = "{}:{}".format(*runner.addresses[0][:2])
    _log.info("metrics_serving", address=address)
    try:
        yield address
    finally:
        await runner.cleanup()
