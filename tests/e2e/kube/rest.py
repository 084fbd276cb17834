"""The manager's API from the host, which has a route to every pod."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any, Final

from tests.e2e.kube.settings import LabError

CALL_S: Final = 10.0
UNAVAILABLE: Final = 503


class RefusedError(LabError):
    """A manager would not do it, and no other one would."""


class Manager:
    """One manager, with one token."""

    def __init__(self, url: str, token: str, tls: ssl.SSLContext | None = None) -> None:
        self._url = url
        self._token = token
        self._tls = tls

    def get(self, path: str) -> dict[str, Any]:
        """Ask."""
        return self.call("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Tell."""
        return self.call("POST", path, body)

    def call(self, method: str, path: str, body: dict[str, Any] | None) -> dict[str, Any]:
        """Any method; what answers without a body gives nothing."""
        request = urllib.request.Request(  # noqa: S310 - the address is that of a pod
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(  # noqa: S310 - as above
                request, timeout=CALL_S, context=self._tls
            ) as answer:
                return dict(json.loads(answer.read() or b"{}"))
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")[:1000]
            kind = LabError if error.code == UNAVAILABLE else RefusedError
            raise kind(f"{method} {path}: {error.code} {text}") from error
        except OSError as error:
            raise LabError(f"{method} {path}: {error}") from error
