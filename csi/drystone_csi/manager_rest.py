"""The manager over its management API, ``/v1``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from drystone_common.errors import (
    ConflictError,
    DeadlineError,
    DeniedError,
    DrystoneError,
    InvalidArgumentError,
    NoSpaceError,
    NotFoundError,
    UnauthenticatedError,
    UnavailableError,
    error_from_dict,
)
from drystone_csi.model import (
    AccessMode,
    Capacity,
    Content,
    ContentState,
    Publication,
    Volume,
    VolumePage,
)
from drystone_storaged.agent.bounded import ask_async
from drystone_storaged.agent.failover import (
    HEALTH,
    PAUSE_S,
    PROBE_S,
    Fate,
    Managers,
    fate,
    may_repeat,
)
from drystone_storaged.agent.https import FollowingTransport
from drystone_storaged.agent.tls_errors import of_error
from drystone_storaged.agent.trust import Trust, require_https

REQUEST_TIMEOUT_S: Final = 30.0
"""The longest single answer: an unpublish that has to fence takes seconds, never half a minute."""

HEALTH_TIMEOUT_S: Final = 2.0  # a probe that takes longer is a no
ANSWER_BYTES_MAX: Final = 16 << 20  # a page of 1000 volumes is below 4 MiB

_M = TypeVar("_M", bound=BaseModel)

_BY_STATUS: Final[dict[int, type[DrystoneError]]] = {
    400: InvalidArgumentError,
    401: UnauthenticatedError,
    403: DeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: InvalidArgumentError,
    429: UnavailableError,
    503: UnavailableError,
    504: DeadlineError,
    507: NoSpaceError,
}


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Content(_Wire):
    state: ContentState
    fs: str | None = None
    nonce: str | None = None


class _Publication(_Wire):
    node: str
    mode: AccessMode


class _Volume(_Wire):
    id: str = Field(pattern="^[0-9a-f]{16}$")
    name: str
    size: int = Field(ge=0)
    pool: str
    content: _Content = _Content(state=ContentState.NEVER)
    attributes: dict[str, str] = Field(default_factory=dict)
    publications: list[_Publication] = Field(default_factory=list)

    def model(self) -> Volume:
        """The same without pydantic."""
        return Volume(
            id=self.id,
            name=self.name,
            size=self.size,
            pool=self.pool,
            content=Content(self.content.state, self.content.fs, self.content.nonce),
            attributes=dict(self.attributes),
            publications=tuple(Publication(p.node, p.mode) for p in self.publications),
        )


class _Page(_Wire):
    items: list[_Volume]
    next_cursor: str | None = None


class _Cluster(_Wire):
    uuid: str


class _Health(_Wire):
    leader: bool = False


class _Pool(_Wire):
    capacity: int = Field(ge=0)
    available: int = Field(ge=0)


class RestManager:
    """``ManagerApi`` over HTTP.

    ``token`` may be None on a loopback that asks for none. The client keeps its connections;
    ``aclose`` ends them. Of several managers the one that leads is asked, also when that changes.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        token: str | None = None,
        *,
        default_pool: str = "default",
        transport: httpx.AsyncBaseTransport | None = None,
        ca_file: str = "",
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._default_pool = default_pool
        self._uuid: str | None = None
        self._managers = Managers(urls)
        trust = Trust(ca_file)
        if trust:
            require_https(self._managers.urls)
            transport = transport or FollowingTransport(trust)
        self._http = httpx.AsyncClient(
            headers=headers, timeout=REQUEST_TIMEOUT_S, transport=transport,
            # Only ever the managers that were named: no proxy from the environment in between.
            trust_env=False,
        )  # fmt: skip

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def cluster_uuid(self) -> str:
        """See ``ManagerApi``; asked once, because it never changes."""
        if self._uuid is None:
            answer = await self._call("GET", "/v1/cluster")
            self._uuid = _read(_Cluster, answer).uuid
        return self._uuid

    async def _same_cluster(self) -> None:
        """Whether the managers kept their store: without it "not there" says nothing of ours."""
        if self._uuid is None:
            return
        now = _read(_Cluster, await self._call("GET", "/v1/cluster")).uuid
        if now != self._uuid:
            raise ConflictError(
                f"the managers answer as cluster {now}, and were {self._uuid} before",
                code="wrong_cluster",
                hint=f"bring back the metadata store of {self._uuid}",
            )

    async def healthy(self) -> bool:
        """See ``ManagerApi``."""
        try:
            await self._call("GET", "/v1/health", timeout=HEALTH_TIMEOUT_S)
        except DrystoneError:
            return False
        return True

    async def create_volume(
        self, name: str, size: int, pool: str | None, attributes: Mapping[str, str]
    ) -> Volume:
        """See ``ManagerApi``."""
        body = {"name": name, "size": size, "attributes": dict(attributes)}
        if pool:
            body["pool"] = pool
        return _read(_Volume, await self._call("POST", "/v1/volumes", body)).model()

    async def get_volume(self, id_or_name: str) -> Volume:
        """See ``ManagerApi``."""
        return _read(_Volume, await self._call("GET", f"/v1/volumes/{id_or_name}")).model()

    async def list_volumes(self, limit: int, cursor: str | None) -> VolumePage:
        """See ``ManagerApi``."""
        params: dict[str, str | int] = {"limit": limit}
        if cursor is not None:
            params["cursor"] = cursor
        page = _read(_Page, await self._call("GET", "/v1/volumes", params=params))
        return VolumePage(tuple(item.model() for item in page.items), page.next_cursor)

    async def delete_volume(self, volume_id: str) -> None:
        """See ``ManagerApi``."""
        await self._same_cluster()
        try:
            await self._call("DELETE", f"/v1/volumes/{volume_id}")
        except NotFoundError:
            return

    async def resize_volume(self, volume_id: str, size: int) -> Volume:
        """See ``ManagerApi``."""
        answer = await self._call("PATCH", f"/v1/volumes/{volume_id}", {"size": size})
        return _read(_Volume, answer).model()

    async def capacity(self, pool: str | None) -> Capacity:
        """See ``ManagerApi``."""
        answer = await self._call("GET", f"/v1/pools/{pool or self._default_pool}")
        found = _read(_Pool, answer)
        return Capacity(total=found.capacity, available=found.available)

    async def publish(self, volume_id: str, node: str, mode: AccessMode) -> None:
        """See ``ManagerApi``."""
        body = {"node": node, "mode": mode.value}
        await self._call("POST", f"/v1/volumes/{volume_id}/publish", body)

    async def unpublish(self, volume_id: str, node: str | None) -> None:
        """See ``ManagerApi``."""
        try:
            await self._call("POST", f"/v1/volumes/{volume_id}/unpublish", {"node": node})
        except NotFoundError:
            return

    async def set_content(self, volume_id: str, expect: Content, to: Content) -> None:
        """See ``ManagerApi``."""
        body = {"expect": _content(expect), "to": _content(to)}
        await self._call("POST", f"/v1/volumes/{volume_id}/content", body)

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        params: Mapping[str, str | int] | None = None,
        timeout: float = REQUEST_TIMEOUT_S,  # noqa: ASYNC109 - httpx's own, it names the phase
    ) -> httpx.Response:
        until = time.monotonic() + timeout
        while True:
            try:
                await self._choose(until)
                return await self._request(method, path, body, params, until)
            except (httpx.HTTPError, DrystoneError, asyncio.CancelledError) as error:
                self._managers.doubt()
                if isinstance(error, asyncio.CancelledError):
                    raise  # the caller's deadline: whoever calls next looks who leads
                met = fate(error) if self._managers.several else None
                again = met is Fate.NOT_DONE or (met and may_repeat(method, path, body))
                if not again or time.monotonic() >= until:
                    raise await asyncio.to_thread(self._typed, error, timeout) from error
                await asyncio.sleep(PAUSE_S)

    async def _choose(self, until: float) -> None:
        """Find out who leads, unless that is known."""
        while not self._managers.known:
            for url in self._managers.order():
                left = min(PROBE_S, max(until - time.monotonic(), 0.1))
                try:
                    answer = await self._ask("GET", f"{url}{HEALTH}", left)
                except httpx.HTTPError as error:
                    await asyncio.to_thread(self._managers.failed, url, error)
                    continue
                if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                    raise _problem(answer)
                health = _read(_Health, answer).model_dump() if answer.is_success else None
                if self._managers.looked(url, health, f"answers {answer.status_code}"):
                    return
            self._managers.give_up(late=time.monotonic() >= until)
            await asyncio.sleep(PAUSE_S)

    async def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        params: Mapping[str, str | int] | None,
        until: float,
    ) -> httpx.Response:
        left = max(until - time.monotonic(), 0.1)
        url = f"{self._managers.url}{path}"
        answer = await self._ask(method, url, left, params=params, body=body)
        if answer.is_success:
            return answer
        raise _problem(answer)

    async def _ask(self, method: str, url: str, within_s: float, **sent: Any) -> httpx.Response:
        limit = ANSWER_BYTES_MAX
        return await ask_async(self._http, method, url, bytes_max=limit, within_s=within_s, **sent)

    def _typed(self, error: Exception, timeout_s: float) -> DrystoneError:
        if isinstance(error, DrystoneError):
            return error
        if isinstance(error, httpx.TimeoutException):
            return DeadlineError(f"the manager did not answer in {timeout_s:.0f} s")
        known = of_error(error, f"the manager at {self._managers.url}", self._managers.url)
        return known or UnavailableError(
            f"the manager at {self._managers.url} cannot be reached: {error!r}",
            hint="volumes in use go on without it",
        )


def _content(content: Content) -> dict[str, str]:
    values = {"state": content.state.value, "fs": content.fs, "nonce": content.nonce}
    return {key: value for key, value in values.items() if value is not None}


def _read(model: type[_M], answer: httpx.Response) -> _M:
    try:
        return model.model_validate_json(answer.content)
    except ValidationError as error:
        raise UnavailableError(
            f"the manager's answer was not understood: {error.errors()[0]['msg']}",
            code="bad_answer",
            hint="driver and manager may be of versions too far apart",
        ) from error


def _problem(answer: httpx.Response) -> DrystoneError:
    """Rebuild the manager's error from problem+json; a proxy's page becomes one by its status."""
    try:
        data: Any = answer.json()
    except ValueError:
        data = None
    if not isinstance(data, dict):
        data = {}
    if data.get("kind"):
        return error_from_dict({"message": data.get("detail"), **data})
    kind = _BY_STATUS.get(answer.status_code, UnavailableError)
    message = str(data.get("detail") or data.get("title") or f"HTTP {answer.status_code}")[:1000]
    code, hint = data.get("code"), data.get("hint")
    return kind(
        message,
        code=code[:100] if isinstance(code, str) else None,
        hint=hint[:1000] if isinstance(hint, str) else None,
    )
