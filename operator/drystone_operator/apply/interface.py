"""What carrying out needs of Kubernetes; implemented over HTTP, and by a fake in tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

from drystone_common.errors import DrystoneError

Json = dict[str, Any]


class KubeError(DrystoneError):
    """The API server refused; ``status`` is the HTTP status."""

    kind = "unavailable"
    default_code = "kubernetes"

    def __init__(self, status: int, message: str, code: str = "kubernetes") -> None:
        super().__init__(f"Kubernetes: {message}", code=code, details={"status": status})
        self.status = status


class Kube(Protocol):
    """Requests to the API server. Paths come from ``paths``."""

    async def get(self, path: str) -> Json | None:
        """An object; None = there is none."""

    def items(self, path: str, *, field_selector: str = "") -> AsyncIterator[Json]:
        """Every object of a collection, page by page."""

    async def create(self, path: str, body: Json) -> bool:
        """Create; False = the name was taken."""

    async def apply(self, path: str, body: Json, *, manager: str) -> Json:
        """Server-side apply; fields that we name become ours."""

    async def merge(self, path: str, body: Json) -> Json:
        """JSON merge patch; a ``resourceVersion`` in it makes it conditional."""

    async def delete(self, path: str, *, uid: str = "", grace: int | None = None) -> bool:
        """Delete, that very object where a uid is given; False = it is gone already."""
