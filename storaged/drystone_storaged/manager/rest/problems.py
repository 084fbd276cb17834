"""Errors as problem+json with a stable code, for every way a request can go wrong."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from drystone_common.errors import DrystoneError
from drystone_common.logs import get_logger

log = get_logger(__name__)

STATUS: Final = {
    "failed": 500,
    "invalid_argument": 400,
    "not_found": 404,
    "already_exists": 409,
    "conflict": 409,
    "unavailable": 503,
    "unauthenticated": 401,
    "denied": 403,
    "deadline": 504,
    "no_space": 507,
    "data": 500,
    "internal": 500,
}
BY_CODE: Final = {"size_out_of_range": 422, "busy": 429}
"""Codes whose status differs from that of their kind."""

HTTP_CODES: Final = {
    400: "invalid_argument", 404: "not_found", 405: "method_not_allowed", 413: "body_too_large"
}  # fmt: skip


def problem(
    status: int,
    code: str,
    title: str,
    *,
    hint: str | None = None,
    details: Any = None,
    kind: str | None = None,
) -> JSONResponse:
    """One answer of type application/problem+json."""
    body: dict[str, Any] = {
        "type": f"urn:drystone:error:{code}",
        "title": title,
        "status": status,
        "detail": title,
        "code": code,
    }
    if hint:
        body["hint"] = hint
    if details:
        body["details"] = details
    if kind:
        body["kind"] = kind
    headers = {"WWW-Authenticate": "Bearer"} if status == STATUS["unauthenticated"] else None
    return JSONResponse(body, status, headers, media_type="application/problem+json")


def error_answer(error: DrystoneError) -> JSONResponse:
    """The answer for a typed error."""
    status = BY_CODE.get(error.code, STATUS[error.kind])
    return problem(
        status,
        error.code,
        error.message,
        hint=error.hint,
        details=error.details,
        # Some kinds share a status: damaged data is no defect.
        kind=error.kind,
    )


def _count(request: Request, code: str) -> None:
    request.app.state.services.tally.refused("rest", code)


def install(app: FastAPI) -> None:
    """Handle every error of the app, and count it."""

    @app.exception_handler(DrystoneError)
    async def typed(request: Request, error: DrystoneError) -> JSONResponse:
        caller = request.client.host if request.client else "a unix socket"
        request.app.state.services.tally.refused_call("rest", error, caller)
        return error_answer(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        _count(request, "invalid_argument")
        # Ten complaints are enough; the input itself is not repeated, it may be large.
        fields = [
            {
                "field": ".".join(str(step) for step in item["loc"])[:200],
                "problem": item["msg"][:200],
            }
            for item in error.errors()[:10]
        ]
        return problem(400, "invalid_argument", "the request is not valid", details=fields)

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code = HTTP_CODES.get(error.status_code, "http_error")
        _count(request, code)
        return problem(error.status_code, code, str(error.detail))

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> JSONResponse:
        log.error("a request failed", path=request.url.path, exc_info=error)
        _count(request, "internal")
        return problem(500, "internal", "internal error", hint="the manager's log says more")
