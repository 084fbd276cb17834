"""Answers over HTTP that are read only as far as they may go, in size and in time.

The clients of httpx read a whole answer before anybody can look at its size, and their timeouts
count from one piece to the next: an answer that never ends would fill the memory.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import httpx

from drystone_common.errors import UnavailableError

TOO_LARGE: Final = "answer_too_large"

_SLOW: Final = "the answer did not end in time"


def too_large(what: str, bytes_max: int) -> UnavailableError:
    """The error for an answer that goes on beyond its limit."""
    return UnavailableError(
        f"{what} is larger than {bytes_max} bytes",
        code=TOO_LARGE,
        hint="no answer of ours is that large: look at who answers there, and at its version",
        details={"bytes_max": bytes_max},
    )


def ask(
    client: httpx.Client,
    method: str,
    url: str,
    *,
    bytes_max: int,
    within_s: float,
    params: Mapping[str, str | int] | None = None,
    body: Mapping[str, object] | None = None,
) -> httpx.Response:
    """Send a request; gives the answer whole, unpacked, without its headers."""
    until = time.monotonic() + within_s
    with client.stream(
        method, url, params=params or None, json=body, timeout=within_s
    ) as answer:  # fmt: skip
        found = bytearray()
        for piece in answer.iter_bytes():
            _take(found, piece, answer, bytes_max)
            if time.monotonic() > until:
                raise httpx.ReadTimeout(_SLOW, request=answer.request)
    return _whole(answer, found)


async def ask_async(
    client: httpx.AsyncClient,
    method: str,
    url: str,
    *,
    bytes_max: int,
    within_s: float,
    connect_s: float | None = None,
    params: Mapping[str, str | int] | None = None,
    body: Mapping[str, object] | None = None,
) -> httpx.Response:
    """The same in an event loop."""
    timeout = httpx.Timeout(within_s, connect=min(connect_s or within_s, within_s))
    sent: Any = {"params": params or None, "json": body, "timeout": timeout}
    try:
        async with (
            asyncio.timeout(within_s),
            client.stream(method, url, **sent) as answer,
        ):
            found = bytearray()
            async for piece in answer.aiter_bytes():
                _take(found, piece, answer, bytes_max)
    except TimeoutError as error:
        raise httpx.ReadTimeout(_SLOW) from error
    return _whole(answer, found)


def _take(found: bytearray, piece: bytes, answer: httpx.Response, bytes_max: int) -> None:
    if len(found) + len(piece) > bytes_max:
        parts = urlsplit(str(answer.request.url))
        where = f"{parts.scheme}://{parts.netloc}"
        raise too_large(f"the answer of {where} to {answer.request.method} {parts.path}", bytes_max)
    found += piece


def _whole(answer: httpx.Response, found: bytearray) -> httpx.Response:
    # Without its headers: what they say of packing is true of the bytes on the wire only.
    return httpx.Response(answer.status_code, content=bytes(found), request=answer.request)
