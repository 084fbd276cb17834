"""A local cluster in a folder of its own, driven by the command line that users have."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import httpx

from drystone_storaged.agent.rest import Rest, read_token
from tests.e2e.lib.procs import naming
from tests.e2e.lib.waits import NotSeenError, wait_for

COMMAND_WAIT_S: Final = 120.0  # the longest: `local up` on a slow disk
IN_SYNC_WAIT_S: Final = 120.0
UMOUNT_WAIT_S: Final = 30.0
ERROR_TEXT_MAX: Final = 4000

Json = Any


class CommandFailedError(Exception):
    """A command of ours ended with an error; the text is its own."""

    def __init__(self, argv: list[str], code: int, text: str) -> None:
        super().__init__(f"`{' '.join(argv)}` ended with {code}: {text[-ERROR_TEXT_MAX:].strip()}")
        self.code = code


class Cluster:
    """One cluster. ``cli`` runs `drystone …`, ``rest`` asks the manager directly."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._program = str(Path(sys.executable).with_name("drystone"))
        self._rest: Rest | None = None
        # Only ever this cluster, whatever the caller's shell points at.
        others = ("DRYSTONE_URL", "DRYSTONE_TOKEN_FILE")
        self._environment = {k: v for k, v in os.environ.items() if k not in others}
        self._environment["DRYSTONE_DIR"] = str(folder)

    def cli(self, *words: str, timeout_s: float = COMMAND_WAIT_S) -> str:
        """Run a command and give what it printed."""
        argv = [self._program, *words]
        if words[0] == "local":
            argv += ["--dir", str(self.folder)]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=timeout_s, check=False,
            env=self._environment,
        )  # fmt: skip
        if done.returncode:
            raise CommandFailedError(["drystone", *words], done.returncode, done.stderr)
        return done.stdout

    def json(self, *words: str) -> Json:
        """Run a command with `-o json`."""
        return json.loads(self.cli(*words, "-o", "json"))

    @property
    def rest(self) -> Rest:
        """The management API with the admin token."""
        if self._rest is None:
            members = json.loads((self.folder / "cluster.json").read_text())
            self._rest = Rest(members["endpoints"]["rest"], read_token(Path(members["token_file"])))
        return self._rest

    def status(self) -> Json:
        """What `drystone status -o json` prints."""
        return self.rest.get("/v1/status")

    def in_sync(self) -> bool:
        """Whether every placement group has all its copies."""
        pgs = self.status()["pgs"]
        return bool(pgs["total"]) and pgs["in_sync"] == pgs["total"]

    def wait_in_sync(self, deadline_s: float = IN_SYNC_WAIT_S) -> None:
        """Wait until every placement group is in sync; the error tells how it stands instead."""
        try:
            wait_for(self.in_sync, "every placement group in sync", deadline_s, poll_s=0.1)
        except NotSeenError as error:
            now = self.status()
            drives = [(d["id"], d["node"], d["state"], d["pgs"]) for d in now["drives"]]
            raise NotSeenError(f"{error}; now {now['pgs']}, {now['issues']}, {drives}") from error

    def used_bytes(self) -> int:
        """Live bytes of all drives, headers and copies included, as last reported."""
        return sum(drive["used"] or 0 for drive in self.status()["drives"])

    def server_count(self, counter: str) -> int:
        """Sum of an engine counter over all drives, as the servers' metrics last had it."""
        pattern = re.compile(rf'_engine_count\{{counter="{counter}",[^}}]*\}} ([0-9.e+]+)')
        members = json.loads((self.folder / "cluster.json").read_text())
        total = 0.0
        for name in self.server_names():
            answer = httpx.get(members["endpoints"]["metrics"][name], trust_env=False)
            total += sum(float(value) for value in pattern.findall(answer.text))
        return int(total)

    def attach(self, volume: str, node: str, kind: str) -> Json:
        """`drystone volume attach`; its JSON."""
        return self.json("volume", "attach", volume, "--node", node, "--as", kind)

    def pid(self, process: str) -> int:
        """Process id by the file under `run`."""
        return int((self.folder / "run" / f"{process}.pid").read_text())

    def server_names(self) -> list[str]:
        """Storage nodes."""
        members = json.loads((self.folder / "cluster.json").read_text())
        return [server["name"] for server in members["servers"]]

    def server_pids(self) -> list[int]:
        """Storage servers that have a pid file."""
        return [self.pid(f"{name}-server") for name in self.server_names()]

    def pids(self) -> dict[str, int]:
        """Every process of the cluster by name."""
        return {path.stem: int(path.read_text()) for path in (self.folder / "run").glob("*.pid")}

    def close(self) -> None:
        """Forget the connections."""
        if self._rest is not None:
            self._rest.__exit__(None, None, None)
            self._rest = None


@contextmanager
def temporary_cluster(name: str, *options: str, keep: bool = False) -> Iterator[Cluster]:
    """`local up` in a new folder; everything is removed at the end, also after a failure."""
    folder = Path(tempfile.mkdtemp(prefix=f"drystone-{name}-"))
    cluster = Cluster(folder / "c")
    try:
        cluster.cli("local", "up", *options)
        yield cluster
    finally:
        cluster.close()
        if keep and cluster.folder.exists():
            print(f"kept: {cluster.folder} (drystone local destroy --dir …)")
        else:
            _remove(cluster, folder)


def _remove(cluster: Cluster, folder: Path) -> None:
    """Leave nothing behind, whatever state the cluster is in."""
    # A process that was frozen cannot end in an orderly way; wake everything first.
    for pid in cluster.pids().values():
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    # Innermost first, and lazily: a mount whose device hangs must not hold us up. What the
    # cluster mounted for its own devices it takes away itself.
    inside = f"{cluster.folder}/"
    for point in [p for p in reversed(_mounts_below(folder)) if not p.startswith(inside)]:
        subprocess.run(["umount", "--lazy", "--", point], check=False, timeout=UMOUNT_WAIT_S)
    try:
        cluster.cli("local", "destroy", "--force")
    except CommandFailedError as error:
        print(f"warning: {cluster.folder} could not be removed: {error}", file=sys.stderr)
    # The folder's name is ours alone. Left are processes that a command had just started when it
    # was cut off, and loads that ran against the cluster.
    for pid in naming(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def _mounts_below(folder: Path) -> list[str]:
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point.startswith(f"{folder}/")]
