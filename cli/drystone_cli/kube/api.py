"""The API of Kubernetes: plain dicts, typed errors, bounded answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

import httpx

from drystone_common.errors import (
    AlreadyExistsError,
    DeniedError,
    DrystoneError,
    NotFoundError,
    UnavailableError,
)
from drystone_storaged.agent.bounded import too_large

PAGE: Final = 500  # what kubectl asks for at a time
PAGES_MAX: Final = 1000  # half a million objects of a kind: a list that does not end is broken
ANSWER_BYTES_MAX: Final = 64 << 20  # a page of pods with their managed fields is a few MiB
MESSAGE_CHARS_MAX: Final = 1000
CUT: Final = "\n[cut here: it is larger than {} bytes]\n"

Json = dict[str, Any]

_BY_STATUS: Final[dict[int, type[DrystoneError]]] = {
    401: DeniedError,
    403: DeniedError,
    404: NotFoundError,
    409: AlreadyExistsError,
}


class Kube:
    """Requests with a deadline, over any client whose base is an API server."""

    def __init__(self, http: httpx.Client) -> None:
        self._http = http

    def get(self, path: str, **params: str) -> Json:
        """One object."""
        return _json(path, self._call("GET", path, params=params))

    def items(self, path: str, **params: str) -> Iterator[Json]:
        """Every item of a list; each with its kind, which lists leave out."""
        query = {"limit": str(PAGE), **params}
        for _ in range(PAGES_MAX):
            page = self.get(path, **query)
            kind = str(page.get("kind", "")).removesuffix("List")
            for item in page.get("items") or ():
                yield {"apiVersion": page.get("apiVersion"), "kind": kind, **item}
            following = (page.get("metadata") or {}).get("continue")
            if not following:
                return
            query["continue"] = str(following)
        raise UnavailableError(f"the list {path} does not end", code="bad_answer")

    def text(self, path: str, bytes_max: int = ANSWER_BYTES_MAX, **params: str) -> str:
        """Text, such as a log; where it goes on beyond ``bytes_max`` it is cut, and says so."""
        found = self._call("GET", path, params=params, cut_at=bytes_max + 1)
        said = CUT.format(bytes_max) if len(found) > bytes_max else ""
        return found[:bytes_max].decode(errors="replace") + said

    def create(self, path: str, body: Json) -> Json:
        """Make an object."""
        return _json(path, self._call("POST", path, body=body))

    def delete(self, path: str, grace_s: int | None = None) -> None:
        """Remove an object; one that is gone is no error."""
        body: Json = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_s is not None:
            body["gracePeriodSeconds"] = grace_s
        try:
            self._call("DELETE", path, body=body)
        except NotFoundError:
            return

    def _call(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: Any = None,
        cut_at: int | None = None,
    ) -> bytes:
        """The answer; one that is too large is an error, or is read to ``cut_at`` only."""
        try:
            with self._http.stream(method, path, params=params or None, json=body) as answer:
                found = bytearray()
                for piece in answer.iter_bytes():
                    found += piece
                    if cut_at is not None and len(found) >= cut_at:
                        break
                    if len(found) > ANSWER_BYTES_MAX:
                        raise too_large(f"the answer to {method} {path}", ANSWER_BYTES_MAX)
        except httpx.HTTPError as error:
            raise UnavailableError(
                f"the API server cannot be reached: {error!r}",
                hint="try `kubectl get nodes` with the same context",
            ) from error
        if not answer.is_success:
            raise _refused(method, path, answer.status_code, bytes(found))
        return bytes(found)


def _refused(method: str, path: str, status: int, content: bytes) -> DrystoneError:
    try:
        data = json.loads(content)
        said = str(data["message"])
    except (ValueError, KeyError, TypeError):
        said = content.decode(errors="replace").strip()
    kind = _BY_STATUS.get(status, UnavailableError)
    message = f"{method} {path}: {said[:MESSAGE_CHARS_MAX] or status}"
    return kind(message, code=f"kubernetes_{status}")


def _json(path: str, content: bytes) -> Json:
    try:
        data = json.loads(content)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise UnavailableError(f"{path}: the answer is not one of Kubernetes", code="bad_answer")
    return data
