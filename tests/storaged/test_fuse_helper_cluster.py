"""A cluster whose block daemon asks a FUSE helper, and is killed while a volume is mounted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.csi import fuse_node
from tests.csi.fuse_node import HelperPod, Loop
from tests.csi.nbd_peer import Writer, wait_for
from tests.e2e.lib.procs import is_running
from tests.storaged.test_local_cluster import Cluster

DEADLINE_S = 90.0

pytestmark = [
    *fuse_node.NEEDED,
    pytest.mark.timeout(420),
    pytest.mark.skipif(shutil.which("unshare") is None, reason="unshare is missing"),
]


class Node:
    """The consuming node of a local cluster, with its helper in a container of its own."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder / "c")
        self.pod = HelperPod(folder, state=folder / "c" / "state" / "block-1")
        self.cluster.env["DRYSTONE_FUSE_HELPER_SOCKET"] = str(self.pod.socket)
        self.mount = self.pod.mount
        self.loops: list[Loop] = []

    def up(self) -> None:
        self.pod.start()
        argv = ("--servers", "1", "--drive-size", "2Gi", "--consumers", "1")
        self.cluster("local", "up", *argv)
        self.cluster("pool", "create", "one", "--copies", "1", "--min-insync", "1")
        self.cluster("volume", "create", "v", "--size", "256M", "--pool", "one")

    def attach(self) -> str:
        device = self.cluster.json("volume", "attach", "v", "--as", "fuse")["device"]
        loop = Loop.of(device)
        if loop not in self.loops:
            self.loops.append(loop)
        return str(device)

    def kill_block(self) -> None:
        """At once: the command line would take a second to begin."""
        pid = int((self.cluster.folder / "run" / "block-1.pid").read_text())
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_running(pid), "the block daemon is dead")

    def start_block(self) -> None:
        self.cluster("local", "start", "block-1")

    def bound(self) -> list[Loop]:
        return [loop for loop in self.loops if loop.bound()]

    def clean(self) -> None:
        if os.path.ismount(self.mount):
            subprocess.run(["umount", "--lazy", self.mount], check=True)
        self.cluster.clean()
        self.pod.kill()


@pytest.fixture
def node(tmp_path_factory):
    made = Node(tmp_path_factory.mktemp("n"))
    try:
        made.up()
        yield made
    finally:
        made.clean()
    assert made.bound() == [], "a loop device is left behind"


def test_a_mounted_volume_outlives_its_block_daemon_and_leaves_nothing(node):
    device = node.attach()
    node.mount.mkdir()
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    subprocess.run(["mount", device, node.mount], check=True)
    (node.mount / "file").write_bytes(bytes(1 << 20))
    writer = Writer(str(node.mount / "file"))
    try:
        for _ in range(2):
            writer.progress(DEADLINE_S)
            node.kill_block()
            node.start_block()
        writer.progress(DEADLINE_S)
    finally:
        writer.stop()
    assert writer.error is None
    assert node.attach() == device
    subprocess.run(["umount", node.mount], check=True)
    node.cluster("volume", "detach", "v")
    assert node.bound() == []
    assert node.pod.folders() == []


def test_a_daemon_killed_in_an_attach_or_detach_converges(node):
    begun = {"attach": lambda: node.pod.folders() != [], "detach": lambda: node.bound() == []}
    for verb, options in (("attach", ("--as", "fuse")), ("detach", ())):
        call = subprocess.Popen(
            [sys.executable, "-m", "drystone_cli", "volume", verb, "v", *options],
            env=node.cluster.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        wait_for(begun[verb], f"the {verb} is under way", DEADLINE_S)
        node.kill_block()
        call.wait(DEADLINE_S)
        node.start_block()
        node.attach()
        assert len(node.bound()) == 1
    node.cluster("volume", "detach", "v")
    assert node.bound() == []
    assert node.pod.folders() == []


def test_without_its_helper_a_daemon_waits_and_says_for_what(node):
    node.pod.kill()
    refused = node.cluster("volume", "attach", "v", "--as", "fuse", check=False)
    assert "start `drystone fuse-helper`" in refused.stderr
    node.pod.start()
    node.attach()
    node.cluster("volume", "detach", "v")
