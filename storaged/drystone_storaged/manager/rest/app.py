"""The FastAPI application of `/v1`."""

from __future__ import annotations

from fastapi import FastAPI

from drystone_common import __version__
from drystone_storaged.manager.rest import (
    cluster_routes,
    device_routes,
    event_routes,
    health_routes,
    maintenance_routes,
    moves_routes,
    problems,
    volumes,
)
from drystone_storaged.manager.rest.guard import BodyLimit, TokenTable
from drystone_storaged.manager.services import Services


def create_app(services: Services, tokens: TokenTable) -> FastAPI:
    """Build the app; `/openapi.json` describes it."""
    app = FastAPI(
        title="Drystone management API",
        version=__version__,
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.services = services
    app.state.tokens = tokens
    app.include_router(volumes.router)
    app.include_router(cluster_routes.router)
    app.include_router(device_routes.router)
    app.include_router(maintenance_routes.router)
    app.include_router(moves_routes.router)
    app.include_router(event_routes.router)
    app.include_router(health_routes.router)
    problems.install(app)
    app.add_middleware(BodyLimit)
    return app
