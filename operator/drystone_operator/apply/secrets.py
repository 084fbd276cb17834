"""Secrets that are made once: the content is random, so it can never be applied again."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from drystone_storaged.manager.secrets_files import MASTER_BYTES, ROLES

Json = dict[str, Any]
Random = Callable[[int], bytes]

TOKEN_BYTES = 32


def secret(name: str, namespace: str, data: Mapping[str, str], labels: Json) -> Json:
    """A Secret. Without an owner: it must survive what it opens."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": name, "namespace": namespace, "labels": dict(labels)},
        "data": {key: encode(value) for key, value in data.items()},
    }


def content(kind: str, random: Random = secrets.token_bytes) -> dict[str, str]:
    """What a new Secret of a kind holds."""
    if kind == "master":
        return {"master.key": random(MASTER_BYTES).hex() + "\n"}
    if kind == "tokens":
        found = {role: _token(random) for role in ROLES}
        lines = "".join(f"{role} {found[role]}\n" for role in ROLES)
        return {"tokens": lines, **found}
    return {}


def encode(text: str) -> str:
    """As Kubernetes keeps it."""
    return base64.b64encode(text.encode()).decode()


def decode(text: str) -> str:
    """The reverse; what is not text reads as nothing."""
    try:
        return base64.b64decode(text, validate=True).decode()
    except (ValueError, UnicodeDecodeError):
        return ""


def _token(random: Random) -> str:
    return base64.urlsafe_b64encode(random(TOKEN_BYTES)).decode().rstrip("=")
