"""Which of several managers is asked over HTTP, and what may be asked again. Pure.

Only the leader answers. A client first asks who leads and then asks that manager, so that a frozen
one costs a short look and not the deadline of a change that nobody may repeat.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Final

import httpx

from drystone_common.errors import DrystoneError, InvalidArgumentError, UnavailableError
from drystone_storaged.agent.tls_errors import of_error

HEALTH: Final = "/v1/health"
PROBE_S: Final = 1.0  # a manager that lives says in milliseconds whether it leads
PAUSE_S: Final = 0.1  # between two rounds over all managers while none leads: an election takes 2 s

_ONCE: Final = (
    # Without a name of what is meant it would shut out who attached in between.
    ("POST", re.compile(r"/v1/volumes/[^/]+/fence")),
    ("POST", re.compile(r"/v1/clients/[^/]+/fence")),
    # A second one would give up what the first one saved, if that is lost by then.
    ("POST", re.compile(r"/v1/pools/[^/]+/mark-lost")),
    # Another node may have taken the name.
    ("DELETE", re.compile(r"/v1/nodes/[^/]+")),
)
"""Calls that are sent again only where it is certain that nothing was carried out. Every other call
of the interface is idempotent (docs/rest-api.md)."""


class Fate(Enum):
    """What became of a call that was not answered by the leader."""

    NOT_DONE = "not done"
    UNKNOWN = "unknown"


def fate(error: Exception) -> Fate | None:
    """What an error says of the call; None = it is an answer, or the time is over."""
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Fate.NOT_DONE
    if isinstance(error, httpx.TransportError):
        return None if isinstance(error, httpx.TimeoutException) else Fate.UNKNOWN
    if isinstance(error, DrystoneError):
        return {"not_leader": Fate.NOT_DONE, "leadership_lost": Fate.UNKNOWN}.get(error.code)
    return None


def may_repeat(method: str, path: str, body: Mapping[str, object] | None) -> bool:
    """Whether a call may be sent again although it may have been carried out."""
    if body and (body.get("nonce") or body.get("generation") is not None):
        return True  # a fence that names what it means
    return not any(method == verb and form.fullmatch(path) for verb, form in _ONCE)


class Managers:
    """Addresses, and which of them leads as far as is known."""

    def __init__(self, urls: str | Sequence[str]) -> None:
        listed = [urls] if isinstance(urls, str) else list(urls)
        if not listed or not all(listed):
            raise InvalidArgumentError(
                "no address of a manager is set",
                code="invalid_settings",
                hint="name the management API of every manager, like http://127.0.0.1:8460",
            )
        self.urls: Final = tuple(url.rstrip("/") for url in listed)
        self._current = 0
        self._known = len(self.urls) == 1
        self._said: dict[str, str] = {}
        self._tls: dict[str, DrystoneError] = {}

    @property
    def url(self) -> str:
        """The one in use."""
        return self.urls[self._current]

    @property
    def several(self) -> bool:
        """Whether there is a choice."""
        return len(self.urls) > 1

    @property
    def known(self) -> bool:
        """Whether the one in use can be asked without a look."""
        return self._known

    def order(self) -> Iterator[str]:
        """The one in use first, then the others."""
        yield from (*self.urls[self._current :], *self.urls[: self._current])

    def looked(self, url: str, health: Mapping[str, Any] | None, said: str = "") -> bool:
        """Take over what a manager said of itself; whether it leads."""
        if health is not None and health.get("leader") is True:
            self._current, self._known = self.urls.index(url), True
            self._tls.clear()
            return True
        self._said[url] = said or "is a standby"
        self._tls.pop(url, None)
        return False

    def failed(self, url: str, error: Exception) -> None:
        """A manager could not be asked; in an event loop call it in a thread."""
        self.looked(url, None, f"does not answer ({type(error).__name__})")
        known = of_error(error, f"the manager at {url}", url)
        if known is not None:
            self._said[url], self._tls[url] = f"cannot be used ({known.code})", known

    def give_up(self, *, late: bool) -> None:
        """After a round without a leader: raise where another one would find none either."""
        if len(self._tls) == len(self.urls):
            raise next(iter(self._tls.values()))  # no election changes a certificate
        if late:
            raise self.nobody()

    def doubt(self) -> None:
        """The next call looks first."""
        self._known = not self.several

    def nobody(self) -> UnavailableError:
        """The error for a search that found no leader."""
        told = "; ".join(f"{url} {self._said.get(url, 'was not asked')}" for url in self.urls)
        return UnavailableError(
            f"no manager leads: {told}",
            code="no_leader",
            hint="start the managers, and see that they reach the metadata store; volumes in use "
            "go on without them",
        )
