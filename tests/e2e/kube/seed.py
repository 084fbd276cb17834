"""Images unpacked once: every node gets a hard-linked copy of one containerd root.

Unpacking them per node and per start takes longer than all the rest of `up`.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from tests.e2e.kube.settings import Lab, LabError
from tests.e2e.kube.shell import run
from tests.e2e.lib.waits import wait_for

START_S: Final = 60.0
IMPORT_S: Final = 300.0
STOP_S: Final = 30.0
# Databases are written in place; a node that shares one by a hard link would write into all.
DATABASES: Final = "*.db"

CONFIG: Final = """version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]
[grpc]
  address = "{state}/containerd.sock"
"""


def make(lab: Lab, archives: Sequence[Path]) -> Path:
    """Give the seed, made when an archive changed."""
    seed, stamp = kept(lab), lab.cache / "seed.stamp"
    wanted = _stamp(archives)
    if seed.exists() and stamp.exists() and stamp.read_text() == wanted:
        return seed
    shutil.rmtree(seed, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(dir=lab.cache, prefix="seed-") as text:
        root = Path(text) / "root"
        _unpack(root, Path(text) / "state", archives)
        root.rename(seed)
    stamp.write_text(wanted)
    return seed


def kept(lab: Lab) -> Path:
    """The one that the lab was made from."""
    return lab.cache / "seed"


def plant(seed: Path, target: Path) -> None:
    """Give a node its copy; one that it has already is kept."""
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        run(["cp", "--archive", "--link", seed, target])
    except LabError:  # the cache is on another file system
        shutil.rmtree(target, ignore_errors=True)
        run(["cp", "--archive", seed, target], timeout_s=IMPORT_S)
    for database in seed.rglob(DATABASES):
        own = target / database.relative_to(seed)
        own.unlink()
        shutil.copy2(database, own)


def _unpack(root: Path, state: Path, archives: Sequence[Path]) -> None:
    state.mkdir()
    config = state / "containerd.toml"
    config.write_text(CONFIG.format(root=root, state=state))
    ctr = ["ctr", f"--address={state}/containerd.sock", "--namespace=k8s.io"]
    with (state / "containerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            ["containerd", "--config", config], stdout=log, stderr=log, start_new_session=True
        )
        try:
            wait_for((state / "containerd.sock").exists, "containerd's socket", START_S)
            for archive in archives:
                run([*ctr, "images", "import", archive], timeout_s=IMPORT_S)
        finally:
            daemon.terminate()
            daemon.wait(STOP_S)


def _stamp(archives: Sequence[Path]) -> str:
    lines = []
    for archive in archives:
        with archive.open("rb") as file:
            lines.append(f"{archive.name} {hashlib.file_digest(file, 'sha256').hexdigest()}")
    return "\n".join(lines)
