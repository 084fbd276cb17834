"""``Kube`` over the official client: its configuration, authentication and connections.

Its thousand models are not used: objects here are plain dicts, as they come and as they go.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlencode

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config
from kubernetes.aio.config.config_exception import ConfigException

from drystone_operator.apply.interface import KubeError
from drystone_storaged.agent.bounded import TOO_LARGE

PAGE: Final = 500  # what kubectl asks for at a time
PAGES_MAX: Final = 1000  # half a million objects of a kind: a list that does not end is broken
ANSWER_BYTES_MAX: Final = 64 << 20
"""A page of pods with their managed fields is a few MiB; 500 objects of the largest size that etcd
takes would be more, and nobody has such pods or nodes. It lies in memory, which is limited."""

PIECE_BYTES: Final = 1 << 16  # read at a time
MESSAGE_CHARS_MAX: Final = 1000

NOT_FOUND: Final = 404
CONFLICT: Final = 409

JSON: Final = "application/json"
MERGE: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"

Json = dict[str, Any]


class KubeHttp:
    """Requests with a deadline; any refusal is a KubeError."""

    def __init__(self, api: ApiClient, timeout_s: float) -> None:
        self._api = api
        self._timeout_s = timeout_s

    async def get(self, path: str) -> Json | None:
        """See ``Kube``."""
        return await self._call("GET", path, absent=NOT_FOUND)

    async def items(self, path: str, *, field_selector: str = "") -> AsyncIterator[Json]:
        """See ``Kube``."""
        query: dict[str, str] = {"limit": str(PAGE)}
        if field_selector:
            query["fieldSelector"] = field_selector
        for _ in range(PAGES_MAX):
            page = await self._call("GET", path, query=query) or {}
            for item in page.get("items") or ():
                yield item
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return
            query["continue"] = str(following)
        raise KubeError(0, f"the list {path} does not end", code="bad_answer")

    async def create(self, path: str, body: Json) -> bool:
        """See ``Kube``."""
        return await self._call("POST", path, body=body, absent=CONFLICT) is not None

    async def apply(self, path: str, body: Json, *, manager: str) -> Json:
        """See ``Kube``. Forced: what we name is ours, whoever wrote it last."""
        query = {"fieldManager": manager, "force": "true"}
        return await self._call("PATCH", path, body=body, query=query, content=APPLY) or {}

    async def merge(self, path: str, body: Json) -> Json:
        """See ``Kube``."""
        return await self._call("PATCH", path, body=body, content=MERGE) or {}

    async def delete(self, path: str, *, uid: str = "", grace: int | None = None) -> bool:
        """See ``Kube``."""
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if uid:
            body["preconditions"] = {"uid": uid}
        if grace is not None:
            body["gracePeriodSeconds"] = grace
        return await self._call("DELETE", path, body=body, absent=NOT_FOUND) is not None

    async def _call(
        self,
        method: str,
        path: str,
        *,
        body: Json | None = None,
        query: Mapping[str, str] | None = None,
        content: str = JSON,
        absent: int = 0,
    ) -> Json | None:
        """One request; None for the one status that is an answer and no failure."""
        config = self._api.configuration
        url = f"{config.host}{path}" + (f"?{urlencode(query)}" if query else "")
        headers = {"Content-Type": content, "Accept": JSON}
        for setting in (await config.auth_settings()).values():
            if setting.get("in") == "header" and setting.get("value"):
                headers[setting["key"]] = setting["value"]
        try:
            answer = await self._api.rest_client.request(  # type: ignore[no-untyped-call]
                method, url, headers=headers, body=body, _request_timeout=self._timeout_s
            )
            text = await _bounded(answer.response, f"{method} {path}")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeError(0, f"{method} {path}: {error!r}") from error
        if answer.status == absent:
            return None
        data = _json(text)
        if answer.status >= 300:  # noqa: PLR2004 - not a success
            message = str(data.get("message") or answer.reason)[:MESSAGE_CHARS_MAX]
            raise KubeError(answer.status, f"{method} {path}: {message}")
        return data


async def _bounded(answer: aiohttp.ClientResponse, what: str) -> bytes:
    """The whole answer, which must end below the limit."""
    found = bytearray()
    async with answer:
        async for piece in answer.content.iter_chunked(PIECE_BYTES):
            found += piece
            if len(found) > ANSWER_BYTES_MAX:
                answer.close()  # else the rest would be read to use the connection again
                said = f"{what}: the answer is larger than {ANSWER_BYTES_MAX} bytes"
                raise KubeError(0, said, code=TOO_LARGE)
    return bytes(found)


def _json(text: bytes) -> Json:
    try:
        data = json.loads(text) if text else {}
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


@asynccontextmanager
async def connected(timeout_s: float, host: str = "") -> AsyncIterator[KubeHttp]:
    """A client: in a pod with its service account, else as kubectl, or to a given address."""
    config = Configuration()
    if host:
        config.host = host
    else:
        try:
            load_incluster_config(client_configuration=config)  # type: ignore[no-untyped-call]
        except ConfigException:
            await load_kube_config(client_configuration=config)  # type: ignore[no-untyped-call]
    api = ApiClient(configuration=config)
    try:
        yield KubeHttp(api, timeout_s)
    finally:
        await api.close()  # type: ignore[no-untyped-call]
