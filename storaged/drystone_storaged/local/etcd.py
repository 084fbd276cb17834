"""The etcd of a local cluster: where its program is, and its settings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from drystone_common.errors import NotFoundError
from drystone_storaged.local.layout import Layout
from drystone_storaged.local.members import EtcdMember, Members
from drystone_storaged.local.ports import HOST

VARIABLE: Final = "DRYSTONE_ETCD"
VERSION: Final = "v3.6.11"
"""What `make etcd` builds (scripts/etcd.sh); any etcd 3.5 or newer does."""


def etcd_program() -> str:
    """The etcd server's program: ``$DRYSTONE_ETCD``, on the PATH, or as `make etcd` built it."""
    named = os.environ.get(VARIABLE)
    if named and not os.access(named, os.X_OK):
        raise NotFoundError(
            f"{VARIABLE} names {named}, which is no program",
            code="etcd_missing",
            hint="correct it, or unset it to have etcd looked for on the PATH",
        )
    built = cache_folder() / f"etcd-{VERSION}" / "etcd"
    found = named or shutil.which("etcd") or (str(built) if os.access(built, os.X_OK) else None)
    if not found:
        raise NotFoundError(
            "there is no etcd on this machine",
            code="etcd_missing",
            hint="install it (Debian: etcd-server), or run `make etcd` in a checkout, which builds "
            f"it with Go, or set {VARIABLE} to its program",
        )
    return found


def cache_folder() -> Path:
    """Where programs are kept that are built once for all checkouts."""
    own = os.environ.get("DRYSTONE_CACHE")
    if own:
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "drystone"


def settings(layout: Layout, members: Members, member: EtcdMember) -> Mapping[str, str | int]:
    """The file of one member."""
    client, peer = _url(member.client_port), _url(member.peer_port)
    return {
        "name": member.name,
        "data-dir": str(layout.state(member.name)),
        "listen-client-urls": client,
        "advertise-client-urls": client,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": ",".join(f"{m.name}={_url(m.peer_port)}" for m in members.etcd),
        "initial-cluster-token": "drystone-local",
        "log-level": "warn",
    }


def _url(port: int) -> str:
    return f"http://{HOST}:{port}"
