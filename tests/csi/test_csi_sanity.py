"""The conformance suite of the CSI project against the driver over fakes and real loop devices.

``scripts/csi_sanity.sh`` runs it against a real cluster; here a failure is the driver's alone.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.csi.nbd_peer import wait_for
from tests.storaged.manager_env import manager, peers

ROOT = Path(__file__).resolve().parent.parent.parent
GIB = 1 << 30


def find_suite() -> str | None:
    installed = sorted((ROOT / ".tools").glob("csi-sanity-*/csi-sanity"))
    return str(installed[-1]) if installed else shutil.which("csi-sanity")


pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and loop devices"),
    pytest.mark.skipif(find_suite() is None, reason="csi-sanity is not installed"),
    pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="no loop devices"),
]


@contextmanager
def serving(folder: Path, *manager: str):
    """The driver in a process of its own; gives its socket."""
    images, log = folder / "images", folder / "log"
    images.mkdir()
    path = folder / "csi.sock"
    argv = [sys.executable, "-m", "tests.csi.fake_driver", str(path), str(images), *manager]
    with log.open("wb") as out:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
        process = subprocess.Popen(argv, cwd=ROOT, stdout=out, stderr=out, env=environment)
    try:
        wait_for(path.exists, "the driver serves")
        yield path
    finally:
        process.terminate()
        process.wait(30)


def run_suite(folder: Path, socket: Path, fs: str) -> None:
    parameters = folder / "parameters.yaml"
    parameters.write_text(f"csi.storage.k8s.io/fstype: {fs}\n")
    argv = [
        str(find_suite()),
        f"--csi.endpoint=unix://{socket}",
        f"--csi.mountdir={folder}/mount",
        f"--csi.stagingdir={folder}/staging",
        f"--csi.testvolumesize={GIB}",
        f"--csi.testvolumeexpandsize={2 * GIB}",
        f"--csi.testvolumeparameters={parameters}",
        "--ginkgo.no-color",
        "--ginkgo.v",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=240, check=False)
    summary = r"(\d+) Passed \| (\d+) Failed \| (\d+) Pending \| (\d+) Skipped"
    counts = re.search(summary, done.stdout)
    assert counts is not None, done.stdout[-3000:] + done.stderr[-3000:]
    print(counts.group(0))
    assert done.returncode == 0, done.stdout[-6000:]
    assert int(counts.group(1)) >= 57
    skips = set(re.findall(r"\[SKIPPED\] (.+?)(?: @|$)", done.stdout, re.MULTILINE))
    claimed = ("CREATE_DELETE_VOLUME", "PUBLISH", "STAGE", "EXPAND", "LIST_VOLUMES", "GET_CAPACITY")
    assert not [skip for skip in skips if any(word in skip for word in claimed)]


@pytest.mark.parametrize("fs", ["ext4", "xfs"])
def test_the_suite_has_no_failures_and_skips_only_what_is_not_claimed(tmp_path, fs):
    with serving(tmp_path) as socket:
        run_suite(tmp_path, socket, fs)


async def test_the_suite_has_no_failures_over_the_real_manager(tmp_path):
    async with manager(tmp_path / "m") as real, peers(real, 3, 2):
        with serving(tmp_path, str(real.http.base_url), real.tokens["operate"]) as socket:
            await asyncio.to_thread(run_suite, tmp_path, socket, "ext4")
