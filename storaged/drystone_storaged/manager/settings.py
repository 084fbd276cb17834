"""Settings of a manager process."""

from __future__ import annotations

from pathlib import Path

from drystone_common.settings import Settings


class ManagerSettings(Settings):
    """From ``DRYSTONE_*`` variables, a file, or the command line."""

    name: str = "manager-1"
    """Name of this manager; it stands in the leader key and in logs."""

    state_dir: Path
    """Folder of the SQLite store and, where they are not given, of secrets."""

    rest_listen: str = "127.0.0.1:8460"
    """Host and port of REST; port 0 takes a free one and writes it to ``endpoints.json``."""

    rest_socket: Path | None = None
    """Unix socket of REST, instead of ``rest_listen``."""

    control_listen: str = "127.0.0.1:8461"
    """Host and port of the control channel."""

    insecure_listen: bool = False
    """Allow addresses that are not loopback without TLS: tokens travel in clear text."""

    master_key_file: Path | None = None
    """32 bytes as hex; default ``master.key`` in the state folder, made at the first start."""

    tokens_file: Path | None = None
    """Lines ``role token``; default ``tokens`` in the state folder, made at the first start."""

    admin_token_file: Path | None = None
    """One line: a token of role admin, besides those of ``tokens_file``."""

    metrics_listen: str = ""
    """Host and port of Prometheus metrics; empty = off."""

    log_level: str = "INFO"
    """Level of the log."""

    @property
    def master_path(self) -> Path:
        """Where the master key is."""
        return self.master_key_file or self.state_dir / "master.key"

    @property
    def tokens_path(self) -> Path:
        """Where the REST tokens are."""
        return self.tokens_file or self.state_dir / "tokens"
