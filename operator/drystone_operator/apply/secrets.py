"""Secrets that are made once: the content is random, so it can never be applied again."""

from __future__ import annotations

import base64
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from drystone_common.errors import DataError
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


def authority(name: str, now: datetime) -> dict[str, str]:
    """A new authority: certificate and key."""
    # Imported here: only a cluster with TLS needs it, and it takes some MiB.
    from drystone_operator.apply import certificates  # noqa: PLC0415

    made = certificates.authority(name, now)
    return {"ca.crt": made.certificate, "ca.key": made.key}


def successor(data: Json, name: str, now: datetime) -> Json:
    """The change by which a Secret of an authority gets the next one, if it has none yet."""
    if data.get("next.crt") and data.get("next.key"):
        return {}
    made = authority(name, now)
    return {"next.crt": encode(made["ca.crt"]), "next.key": encode(made["ca.key"])}


def promoted(data: Json) -> Json:
    """The change by which the next authority becomes the one that signs."""
    if not (data.get("next.crt") and data.get("next.key")):
        return {}
    return {
        "old.crt": data.get("ca.crt"),
        "ca.crt": data["next.crt"],
        "ca.key": data["next.key"],
        "next.crt": None,
        "next.key": None,
    }


def certificate(data: Json, hosts: Sequence[str], now: datetime) -> dict[str, str]:
    """A certificate that the authority in ``data`` (as Kubernetes keeps it) signed."""
    from drystone_operator.apply import certificates  # noqa: PLC0415 - as above

    by = certificates.Pair(decode(str(data.get("ca.crt", ""))), decode(str(data.get("ca.key", ""))))
    try:
        made = certificates.issue(by, hosts, now)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"the Secret of the authority is damaged: {error}",
            hint="restore it, or delete it: then a new one is made, which every client must learn",
        ) from error
    return {"tls.crt": made.certificate, "tls.key": made.key, "ca.crt": by.certificate}


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
