"""Before anything is parsed: size of the body, bearer token, role."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final, Literal

from fastapi import Depends, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drystone_common.errors import DeniedError, UnauthenticatedError
from drystone_storaged.manager.rest.problems import problem
from drystone_storaged.manager.services import Services

Role = Literal["read", "operate", "admin"]
RANK: Final = {"read": 1, "operate": 2, "admin": 3}
LENGTH_DIGITS_MAX: Final = 20  # no honest length is longer, and int() of a huge text is slow
BODY_BYTES_MAX: Final = 64 << 10  # the largest valid body has 16 attributes of 1 KiB


class TokenTable:
    """Tokens and their roles; looks at every token, so that time tells nothing."""

    def __init__(self, tokens: Mapping[str, str]) -> None:
        self.replace(tokens)

    def replace(self, tokens: Mapping[str, str]) -> None:
        """Only these count from here on."""
        self._tokens = [(token.encode(), RANK[role]) for token, role in tokens.items()]

    def rank(self, header: str | None) -> int:
        """Rank of an Authorization header; 0 = not valid."""
        scheme, _, given = (header or "").partition(" ")
        presented = given.strip().encode() if scheme.lower() == "bearer" else b""
        found = 0
        for token, rank in self._tokens:
            found = rank if hmac.compare_digest(token, presented) else found
        return found


def _authorize(request: Request, role: Role) -> None:
    table: TokenTable = request.app.state.tokens
    rank = table.rank(request.headers.get("authorization"))
    if rank == 0:
        raise UnauthenticatedError(
            "a valid token is needed",
            hint="send `Authorization: Bearer TOKEN`; the manager's tokens file has them",
        )
    if rank < RANK[role]:
        raise DeniedError(f"this needs a token of role {role}", code="forbidden")


def _admit(request: Request, role: Role) -> None:
    """Who may, and only at the leader: a standby knows neither sessions nor figures."""
    _authorize(request, role)
    services: Services = request.app.state.services
    services.leadership.require()


# Coroutines: FastAPI would run plain functions in a thread each, which costs more than the check.
async def _read_anywhere(request: Request) -> None:
    _authorize(request, "read")


async def _read(request: Request) -> None:
    _admit(request, "read")


async def _operate(request: Request) -> None:
    _admit(request, "operate")


async def _admin(request: Request) -> None:
    _admit(request, "admin")


READ_ANYWHERE: Final = Depends(_read_anywhere)
"""Also at a standby."""

READ: Final = Depends(_read)
OPERATE: Final = Depends(_operate)
ADMIN: Final = Depends(_admin)


class BodyLimit:
    """ASGI middleware: a body over the limit is refused, also when its length is not declared."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, counting its bytes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        body = await _collect(receive) if declared.isdigit() and _fits(declared) else None
        if body is None:
            scope["app"].state.services.tally.refused("rest", "body_too_large")
            answer = problem(413, "body_too_large", f"a body has at most {BODY_BYTES_MAX} bytes")
            await answer(scope, receive, send)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)


def _fits(declared: bytes) -> bool:
    return len(declared) <= LENGTH_DIGITS_MAX and int(declared) <= BODY_BYTES_MAX


async def _collect(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        part = message.get("body", b"")
        size += len(part)
        if size > BODY_BYTES_MAX:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
