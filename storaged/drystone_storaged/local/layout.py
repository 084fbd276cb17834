"""Where everything of a local cluster lies below its folder. No other module joins these paths."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drystone_common.errors import ConflictError

SHARED_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder below is ours alone

OWN_NAMES: Final = (
    "cluster.json", "conf", "csi", "drives", "lock", "log", "master.key", "run", "state", "token",
    "tokens",
)  # fmt: skip
"""Everything that we ever make in the folder: what else is there is not ours."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths below ``root``, which is absolute."""

    root: Path

    @property
    def cluster_file(self) -> Path:
        """Endpoints, ports and members."""
        return self.root / "cluster.json"

    @property
    def lock_file(self) -> Path:
        """Held while a command changes the cluster."""
        return self.root / "lock"

    @property
    def token_file(self) -> Path:
        """The admin token, for the CLI."""
        return self.root / "token"

    @property
    def tokens_file(self) -> Path:
        """Every token with its role, for the manager."""
        return self.root / "tokens"

    @property
    def master_file(self) -> Path:
        """The key of all managers, where there are several."""
        return self.root / "master.key"

    @property
    def drives(self) -> Path:
        """Drive files by node."""
        return self.root / "drives"

    def drive(self, node: str, number: int) -> Path:
        """The file of a node's n-th drive, counted from 1."""
        return self.drives / node / f"{number}.img"

    def state(self, node: str) -> Path:
        """What a process keeps over restarts."""
        return self.root / "state" / node

    def config(self, process: str) -> Path:
        """Settings of a process; those of etcd are in a form of its own."""
        kind = "json" if process.startswith("etcd-") else "toml"
        return self.root / "conf" / f"{process}.{kind}"

    def join_token(self, node: str) -> Path:
        """The token of a node's first registration."""
        return self.root / "conf" / f"{node}.join"

    def pid(self, process: str) -> Path:
        """Process id, a number and nothing else."""
        return self.root / "run" / f"{process}.pid"

    def log(self, process: str) -> Path:
        """Log of a process."""
        return self.root / "log" / f"{process}.log"

    def block_socket(self, node: str) -> Path:
        """Control socket of a block daemon."""
        return self.root / "run" / f"{node}.sock"

    def beacon_run(self, node: str) -> Path:
        """Folder of the lease page that a node's server and beacon share."""
        return self.beacon_runs / node

    @property
    def beacon_runs(self) -> Path:
        """Of all nodes. In memory: a store into a page on a disk may wait for that disk."""
        if not SHARED_MEMORY.is_dir():
            return self.root / "run"
        digest = hashlib.sha256(str(self.root).encode()).hexdigest()
        return SHARED_MEMORY / f"drystone-{os.geteuid()}-{digest[:16]}"

    def csi_socket(self, number: int) -> Path:
        """CSI socket of the n-th consumer, counted from 1."""
        return self.root / "csi" / ("csi.sock" if number == 1 else f"{number}.sock")

    def consumers_by_files(self) -> list[str]:
        """Nodes that attached something, by what they left."""
        folders = self.root.glob("state/*")
        return sorted(
            f.name for f in folders if (f / "attachments").is_dir() or (f / "fuse").is_dir()
        )

    def make_folders(self) -> None:
        """Make what is missing; private, because keys and data lie below."""
        for name in ("conf", "csi", "drives", "log", "run", "state"):
            (self.root / name).mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.beacon_runs.exists() and self.beacon_runs.lstat().st_uid != os.geteuid():
            # Everybody may make folders there.
            raise ConflictError(
                f"{self.beacon_runs} belongs to another user",
                code="folder_unusable",
                hint="remove it, or name another folder with --dir",
            )

    def foreign(self) -> list[str]:
        """Names in the folder that are not ours."""
        if not self.root.is_dir():
            return []
        return sorted(path.name for path in self.root.iterdir() if path.name not in OWN_NAMES)
