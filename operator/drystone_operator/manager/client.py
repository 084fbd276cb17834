"""One client for several managers: whoever leads answers, a standby sends on to the next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

import httpx

from drystone_common.errors import DeadlineError, DrystoneError, UnavailableError
from drystone_storaged.agent.bounded import TOO_LARGE, ask_async
from drystone_storaged.agent.rest import problem
from drystone_storaged.agent.tls_errors import of_error

ANSWER_BYTES_MAX: Final = 64 << 20  # as every client of ours: a page of 1000 is a few MiB
PAGE: Final = 1000
PAGES_MAX: Final = 10_000  # a manager whose cursor never ends is broken
CONNECT_S: Final = 3.0  # a manager whose node is gone must not cost the whole time of a call

Json = dict[str, Any]


class ManagerClient:
    """Calls ``/v1`` of the manager that leads. The token is asked for anew at each call."""

    def __init__(
        self,
        urls: Sequence[str],
        token: str,
        *,
        timeout_s: float,
        verify: Any = True,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._urls = list(urls)
        self._first = 0
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {token}"},
            transport=transport,
            verify=verify,
            # Only ever the managers that were named: no proxy from the environment in between.
            trust_env=False,
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def get(self, path: str, **params: str | int) -> Json:
        """GET one object."""
        return await self._call("GET", path, params=params)

    async def post(self, path: str, body: Mapping[str, object] | None = None) -> Json:
        """POST, and the object that comes back (empty for none)."""
        return await self._call("POST", path, body=body or {})

    async def patch(self, path: str, body: Mapping[str, object]) -> Json:
        """PATCH, and the object that comes back."""
        return await self._call("PATCH", path, body=body)

    async def delete(self, path: str) -> None:
        """DELETE."""
        await self._call("DELETE", path)

    async def items(self, path: str) -> AsyncIterator[Json]:
        """Every item of a paged list."""
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            params: dict[str, str | int] = {"limit": PAGE}
            if cursor is not None:
                params["cursor"] = cursor
            page = await self._call("GET", path, params=params)
            for item in page.get("items", []):
                yield item
            cursor = page.get("next_cursor")
            if cursor is None:
                return
        raise UnavailableError(f"the list {path} does not end", code="bad_answer")

    async def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Json:
        """Ask one manager after the other until one leads; the last refusal is raised."""
        last: DrystoneError = UnavailableError("no address of a manager is known")
        for turn in range(len(self._urls)):
            index = (self._first + turn) % len(self._urls)
            try:
                answer = await self._ask(self._urls[index], method, path, params, body)
            except UnavailableError as error:
                if error.code == TOO_LARGE:
                    raise  # another one would only say that it does not lead, and hide this
                last = error
                continue
            self._first = index
            return answer
        raise last

    async def _ask(
        self,
        url: str,
        method: str,
        path: str,
        params: Mapping[str, str | int] | None,
        body: Mapping[str, object] | None,
    ) -> Json:
        try:
            answer = await ask_async(
                self._http, method, f"{url}{path}",
                bytes_max=ANSWER_BYTES_MAX, within_s=self._timeout_s, connect_s=CONNECT_S,
                params=params, body=body,
            )  # fmt: skip
        except httpx.ConnectTimeout as error:
            raise UnavailableError(f"the manager at {url} cannot be reached: {error!r}") from error
        except httpx.TimeoutException as error:
            raise DeadlineError(
                f"the manager at {url} did not answer in {self._timeout_s:g} s"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            known = await asyncio.to_thread(of_error, error, f"the manager at {url}", url)
            raise known or UnavailableError(
                f"the manager at {url} cannot be reached: {error!r}"
            ) from error
        data = _json(answer)
        if answer.is_success:
            return data
        raise problem(answer.status_code, data)


def _json(answer: httpx.Response) -> Json:
    try:
        data = answer.json() if answer.content else {}
    except ValueError:
        data = None
    if isinstance(data, dict):
        return data
    if isinstance(data, list):
        return {"items": data}
    if answer.is_success:
        raise UnavailableError("the answer is not a manager's", code="bad_answer")
    return {}
