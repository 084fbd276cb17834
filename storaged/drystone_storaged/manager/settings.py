"""Settings of a manager process."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import model_validator

from drystone_common.settings import Settings


class ManagerSettings(Settings):
    """From ``DRYSTONE_*`` variables, a file, or the command line."""

    name: str = "manager-1"
    """Name of this manager; it stands in the leader key and in logs."""

    state_dir: Path
    """Folder of the SQLite store and, where they are not given, of secrets."""

    metadata: Literal["sqlite", "etcd"] = "sqlite"
    """Where the cluster's records are: a file of this manager, or etcd, for several managers."""

    etcd_endpoints: tuple[str, ...] = ()
    """`host:port` of each member of etcd."""

    etcd_namespace: str = "/drystone"
    """Goes before every key, so that others can share the etcd."""

    etcd_ca_file: Path | None = None
    """Certificates that etcd's must descend from; without it etcd is spoken to in clear text."""

    etcd_cert_file: Path | None = None
    """Our own certificate, where etcd wants one."""

    etcd_key_file: Path | None = None
    """Its key."""

    etcd_user: str = ""
    """User, where etcd has authentication on."""

    etcd_password_file: Path | None = None
    """The user's password; read anew at each login."""

    etcd_compact: bool = True
    """Forget history that is older than five minutes; off where etcd is told to by others."""

    rest_listen: str = "127.0.0.1:8460"
    """Host and port of REST; port 0 takes a free one and writes it to ``endpoints.json``."""

    rest_socket: Path | None = None
    """Unix socket of REST, instead of ``rest_listen``."""

    control_listen: str = "127.0.0.1:8461"
    """Host and port of the control channel."""

    tls_cert_file: Path | None = None
    """Certificate of REST and the control channel, PEM, with what stands between it and the CA;
    taken up anew when the file changes."""

    tls_key_file: Path | None = None
    """Its key, PEM, without a password."""

    insecure_listen: bool = False
    """Allow addresses that are not loopback without TLS: tokens travel in clear text."""

    master_key_file: Path | None = None
    """32 bytes as hex, the same for all managers; default ``master.key`` in the state folder, made
    at the first start where the store is SQLite."""

    tokens_file: Path | None = None
    """Lines ``role token``, the same for all managers; default ``tokens`` in the state folder,
    made at the first start where the store is SQLite; taken up anew when the file changes."""

    admin_token_file: Path | None = None
    """One line: a token of role admin, besides those of ``tokens_file``."""

    metrics_listen: str = ""
    """Host and port of Prometheus metrics; empty = off."""

    log_level: str = "INFO"
    """Level of the log."""

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file belong together: give both or neither")
        return self

    @property
    def tls(self) -> bool:
        """Whether REST and the control channel speak TLS."""
        return self.tls_cert_file is not None

    @property
    def master_path(self) -> Path:
        """Where the master key is."""
        return self.master_key_file or self.state_dir / "master.key"

    @property
    def tokens_path(self) -> Path:
        """Where the REST tokens are."""
        return self.tokens_file or self.state_dir / "tokens"
