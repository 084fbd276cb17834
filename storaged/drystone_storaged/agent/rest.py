"""The management API as programs of ours call it: one client, typed errors, bounded answers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx

from drystone_common.errors import (
    AlreadyExistsError,
    ConflictError,
    DataError,
    DeadlineError,
    DeniedError,
    DrystoneError,
    InvalidArgumentError,
    InvariantError,
    NoSpaceError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
)
from drystone_common.files import read_limited
from drystone_storaged.agent.bounded import ask
from drystone_storaged.agent.failover import (
    HEALTH,
    PAUSE_S,
    PROBE_S,
    Fate,
    Managers,
    fate,
    may_repeat,
)
from drystone_storaged.agent.tls_errors import of_error
from drystone_storaged.agent.trust import Trust, require_https

TIMEOUT_S: Final = 30.0  # the longest single answer: a fence that has to be proven
LOOK_S: Final = 5.0  # a look that a person waits for: a manager that lives needs milliseconds
ANSWER_BYTES_MAX: Final = 64 << 20  # a map of 8192 placement groups is a few MiB as JSON
PAGE: Final = 1000
PAGES_MAX: Final = 10_000  # a manager whose cursor never ends is broken

_BY_STATUS: Final[dict[int, type[DrystoneError]]] = {
    400: InvalidArgumentError,
    401: UnauthenticatedError,
    403: DeniedError,
    404: NotFoundError,
    405: InvalidArgumentError,
    409: ConflictError,
    413: InvalidArgumentError,
    422: InvalidArgumentError,
    429: UnavailableError,
    500: InvariantError,
    503: UnavailableError,
    504: DeadlineError,
    507: NoSpaceError,
}
_BY_KIND: Final[dict[object, type[DrystoneError]]] = {
    DataError.kind: DataError,
    DrystoneError.kind: DrystoneError,
}
"""Kinds that share their status with another one: the answer names them."""

_EXISTS: Final = ("volume_exists", "pool_exists", "node_name_taken")

Json = dict[str, Any]


class Rest:
    """Calls ``/v1``; use it as a context manager. ``token`` goes into every request.

    Of several managers the one that leads is asked, also when that changes, within ``timeout_s``.
    With ``ca_file`` they are verified with its certificates, else with the system's.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        token: str,
        *,
        transport: httpx.BaseTransport | None = None,
        timeout_s: float = TIMEOUT_S,
        ca_file: Path | None = None,
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._managers = Managers(urls)
        trust = Trust(ca_file)
        if trust:
            require_https(self._managers.urls)
        self._timeout_s = timeout_s
        self._http = httpx.Client(
            verify=trust.context() if trust else True,
            headers=headers, timeout=timeout_s, transport=transport,
            # Only ever the manager that was named: no proxy from the environment in between.
            trust_env=False,
        )  # fmt: skip

    @property
    def base_url(self) -> str:
        """The manager that was asked last."""
        return self._managers.url

    def __enter__(self) -> Self:
        """Nothing is connected before the first call."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **params: str | int) -> Json:
        """GET one object."""
        return self._call("GET", path, params=params)

    def post(self, path: str, body: Mapping[str, object] | None = None) -> Json:
        """POST, and the object that comes back (empty for none)."""
        return self._call("POST", path, body=body or {})

    def patch(self, path: str, body: Mapping[str, object]) -> Json:
        """PATCH, and the object that comes back."""
        return self._call("PATCH", path, body=body)

    def delete(self, path: str) -> None:
        """DELETE."""
        self._call("DELETE", path)

    def items(self, path: str, **query: str | int) -> Iterator[Json]:
        """Every item of a paged list."""
        cursor: str | None = None
        for _ in range(PAGES_MAX):
            params: dict[str, str | int] = {"limit": PAGE, **query}
            if cursor is not None:
                params["cursor"] = cursor
            page = self._call("GET", path, params=params)
            yield from page.get("items", [])
            cursor = page.get("next_cursor")
            if cursor is None:
                return
        raise UnavailableError(f"the list {path} does not end", code="bad_answer")

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str | int] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> Json:
        until = time.monotonic() + self._timeout_s
        unsure = False
        while True:
            try:
                self._choose(until)
                return self._request(method, path, params, body, until)
            except (httpx.HTTPError, httpx.InvalidURL, DrystoneError) as error:
                self._managers.doubt()
                if unsure and method == "DELETE" and isinstance(error, NotFoundError):
                    return {}  # the call before this one did it
                met = fate(error) if self._managers.several else None
                again = met is Fate.NOT_DONE or (met and may_repeat(method, path, body))
                if not again or time.monotonic() >= until:
                    raise self._typed(error, method) from error
                unsure = unsure or met is Fate.UNKNOWN
                time.sleep(PAUSE_S)

    def _choose(self, until: float) -> None:
        """Find out who leads, unless that is known."""
        while not self._managers.known:
            for url in self._managers.order():
                left = min(PROBE_S, max(until - time.monotonic(), 0.1))
                try:
                    answer = self._ask("GET", f"{url}{HEALTH}", left)
                except httpx.HTTPError as error:
                    self._managers.failed(url, error)
                    continue
                data = _json(answer)
                if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                    raise problem(answer.status_code, data)
                said = "" if answer.is_success else str(data.get("detail") or answer.status_code)
                if self._managers.looked(url, data if answer.is_success else None, said):
                    return
            self._managers.give_up(late=time.monotonic() >= until)
            time.sleep(PAUSE_S)

    def _request(
        self,
        method: str,
        path: str,
        params: Mapping[str, str | int] | None,
        body: Mapping[str, object] | None,
        until: float,
    ) -> Json:
        left = max(until - time.monotonic(), 0.1)
        answer = self._ask(method, f"{self.base_url}{path}", left, params=params, body=body)
        data = _json(answer)
        if answer.is_success:
            return data
        raise problem(answer.status_code, data)

    def _ask(self, method: str, url: str, within_s: float, **sent: Any) -> httpx.Response:
        return ask(self._http, method, url, bytes_max=ANSWER_BYTES_MAX, within_s=within_s, **sent)

    def _typed(self, error: Exception, method: str) -> DrystoneError:
        if isinstance(error, DrystoneError):
            return error
        if isinstance(error, httpx.TimeoutException):
            unsure = "" if method == "GET" else "; the call may have been carried out"
            return DeadlineError(
                f"the manager at {self.base_url} did not answer in {self._timeout_s:.0f} s",
                hint="it is frozen or overloaded: `drystone local status` tells, `drystone local "
                f"start` with its name wakes it{unsure}",
            )
        known = of_error(error, f"the manager at {self.base_url}", self.base_url)
        return known or UnavailableError(
            f"the manager at {self.base_url} cannot be reached: {error}",
            hint="see `drystone local status`; volumes in use go on without it",
        )


def problem(status: int, data: Mapping[str, Any]) -> DrystoneError:
    """Rebuild the typed error from problem+json; anything else becomes one by its status."""
    code = data.get("code")
    kind = _BY_STATUS.get(status, DrystoneError)
    if status == httpx.codes.INTERNAL_SERVER_ERROR:
        kind = _BY_KIND.get(data.get("kind"), kind)
    if code in _EXISTS:
        kind = AlreadyExistsError
    message = str(data.get("detail") or data.get("title") or f"HTTP status {status}")[:4096]
    hint = data.get("hint") or _complaints(data.get("details"))
    return kind(
        message,
        code=code if isinstance(code, str) else None,
        hint=hint[:4096] if isinstance(hint, str) else None,
    )


def _complaints(details: object) -> str | None:
    """What a refused request said of its fields, in one line."""
    if not isinstance(details, list):
        return None
    found = [d for d in details if isinstance(d, dict)]
    return "; ".join(f"{d.get('field')}: {d.get('problem')}" for d in found) or None


def segment(text: str) -> str:
    """What a person typed, as one segment of a path and never more.

    No name holds a slash, and servers take even an escaped one for the end of a segment.
    """
    if not text or text in (".", "..") or "/" in text:
        raise InvalidArgumentError(
            f"{text!a} is not a name",
            code="invalid_name",
            hint="see the list command for the names there are",
        )
    return quote(text, safe="")


def read_token(path: Path) -> str:
    """The bearer token in a file."""
    return read_limited(path, bytes_max=4096).decode("ascii", "replace").strip()


def _json(answer: httpx.Response) -> Json:
    try:
        data = answer.json() if answer.content else {}
    except ValueError:
        data = None
    if isinstance(data, dict):
        return data
    if answer.is_success:
        raise UnavailableError(
            "the answer is not the manager's",
            code="bad_answer",
            hint="check the address of the manager",
        )
    return {}
