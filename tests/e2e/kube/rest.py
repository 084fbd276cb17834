"""The manager's API from the host, which has a route to every pod."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any, Final

from tests.e2e.kube.settings import LabError

CALL_S: Final = 10.0


class Manager:
    """One manager, with one token."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url
        self._token = token

    def get(self, path: str) -> dict[str, Any]:
        """Ask."""
        return self._call("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Tell."""
        return self._call("POST", path, body)

    def _call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - the address is that of a pod
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=CALL_S) as answer:  # noqa: S310 - as above
                return dict(json.load(answer))
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")[:1000]
            raise LabError(f"{method} {path}: {error.code} {text}") from error
        except OSError as error:
            raise LabError(f"{method} {path}: {error}") from error
