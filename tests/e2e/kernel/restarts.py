"""Volumes on the kernel's NBD driver while the daemons behind them are killed and replaced.

Two volumes: one raw, under a writer that knows each block; one with a file system, staged and
published through CSI, to which files are added. Nothing may fail, and every byte is read back.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from drystone_storaged.attach import sysfs
from tests.e2e.lib.cluster import Cluster
from tests.e2e.lib.csi import Csi, CsiVolume
from tests.e2e.lib.files import FileSet
from tests.e2e.lib.procs import is_running
from tests.e2e.lib.waits import wait_for
from tests.e2e.lib.writer import Region, Writer, verify

NODE: Final = "block-1"
RAW_VOLUME: Final = "kernel-raw"
RAW_SIZE: Final = "256M"
SLOTS: Final = 1024
THREADS: Final = 4
"""So that some requests are under way whenever the daemon ends."""
MOUNTED_SIZE: Final = 512 << 20
WRITES: Final = 200
GO_ON_S: Final = 180.0
"""What was under way when the daemon died is sent again 30 s later; the rest is a slow machine."""
FILE_PAUSE_S: Final = 0.2  # files enough to check, and processor time left for the writer
LOAD_STOP_S: Final = 90.0
END_WAIT_S: Final = 30.0
CSI_FILES: Final = 3
TIMEOUTS: Final = 2
ROUND_S: Final = 10.0  # requests that time out together are told within a second or two
COMPLAINTS: Final = ("I/O error", "BUG:", "Oops", "blocked for more than")
"""What the kernel says when something went wrong that nobody waited for."""


class FailedCheckError(Exception):
    """Something that must hold does not."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the report."""

    name: str
    value: str


class Files:
    """Adds files to a mounted volume, in a thread, while ``adding`` is entered."""

    def __init__(self, folder: Path) -> None:
        self.known = FileSet(folder)
        self._stop = threading.Event()
        self._error: OSError | None = None

    @contextmanager
    def adding(self) -> Iterator[None]:
        """A file after the other until the block ends; an error of any is raised then."""
        self._stop.clear()
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(LOAD_STOP_S)
        if thread.is_alive():
            raise FailedCheckError("a write to the mounted volume does not end")
        if self._error is not None:
            raise FailedCheckError(f"a write to the mounted volume failed: {self._error}")

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.known.add()
            except OSError as error:
                self._error = error
                return
            self._stop.wait(FILE_PAUSE_S)


@dataclass(slots=True)
class Scene:
    """The cluster with both volumes in use."""

    cluster: Cluster
    up: tuple[str, ...]
    device: str
    files: Files
    writers: int = 0


def replace_daemons(cluster: Cluster, up: tuple[str, ...]) -> list[Figure]:
    """Everything, from volumes made to volumes deleted; the figures of it."""
    csi = Csi(cluster.folder / "csi" / "csi.sock")
    base = cluster.folder.parent / "mounts"
    made = csi.create("kernel-ext4", "ext4", MOUNTED_SIZE)
    csi.publish(made, NODE, base / "staging", base / "target")
    cluster.cli("volume", "create", RAW_VOLUME, "--size", RAW_SIZE)
    device = cluster.attach(RAW_VOLUME, NODE, "nbd")["device"]
    scene = Scene(cluster, up, device, Files(base / "target"))
    devices = [device, _device_of(made)]
    print(f"on NBD devices: {', '.join(devices)}", flush=True)
    _check(all(name.startswith("/dev/nbd") for name in devices), "both volumes are on NBD devices")
    figures = [
        _under_load(scene, "block daemon killed and started", kill_block),
        _under_load(scene, "block daemon stopped and started, as an upgrade does", upgrade_block),
        _under_load(scene, "CSI plugin killed and started", kill_csi),
        _under_load(scene, "two of three servers frozen past the kernel's timeout", stall_pool),
    ]
    figures.append(_checked(scene))
    _take_down(scene, csi, made, base)
    csi.close()
    return figures


def kill_block(scene: Scene) -> None:
    """SIGKILL, then a new process."""
    scene.cluster.cli("local", "stop", NODE, "--process", "block", "--signal", "KILL")
    scene.cluster.cli("local", "start", NODE)


def upgrade_block(scene: Scene) -> None:
    """SIGTERM and an orderly end, then a new process on the same state folder."""
    scene.cluster.cli("local", "stop", NODE, "--process", "block")
    scene.cluster.cli("local", "start", NODE)


def kill_csi(scene: Scene) -> None:
    """The CSI plugin holds nothing that a mounted volume needs; files go on being written."""
    name = next(name for name in scene.cluster.pids() if name.startswith("csi"))
    pid = scene.cluster.pid(name)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_running(pid), "the CSI plugin is dead", END_WAIT_S)
    before = scene.files.known.count
    wait_for(
        lambda: scene.files.known.count >= before + CSI_FILES, "files while it is dead", GO_ON_S
    )
    scene.cluster.cli("local", "up", *scene.up)
    _check(scene.cluster.pid(name) != pid, "the CSI plugin was started again")


def stall_pool(scene: Scene) -> None:
    """The kernel takes the connection of a stalled device for dead, and sends everything again.

    Twice, so that the second copy meets the first one in the engine.
    """
    names = scene.cluster.server_names()[:2]
    for name in names:
        scene.cluster.cli("local", "stop", name, "--process", "server", "--signal", "STOP")
    name = scene.device.removeprefix("/dev/")
    before = timeouts(kernel_log(), name)
    wait_for(
        lambda: timeouts(kernel_log(), name) >= before + TIMEOUTS, "the kernel's timeouts", GO_ON_S
    )
    for name in names:
        scene.cluster.cli("local", "start", name)


def _under_load(scene: Scene, name: str, event: Callable[[Scene], None]) -> Figure:
    """The event between writes; nothing fails and the content is that of the last writes."""
    scene.writers += 1
    region = Region(scene.device, 0, SLOTS, seed=scene.writers)
    log = kernel_log()
    with scene.files.adding():
        writer = Writer(region, THREADS)
        try:
            writer.goes_on(WRITES, GO_ON_S)
            event(scene)
            writer.goes_on(WRITES, GO_ON_S)
        finally:
            seen = writer.stop()
    apart = unconnected_s(kernel_log()[len(log) :], scene.device.removeprefix("/dev/"))
    _check(seen.errors == 0, f"{name}: no write fails; {seen.errors} did: {seen.first_error}")
    blocks = verify(region, seen)
    print(f"{name}: {seen.writes} writes, {blocks} blocks read back right", flush=True)
    return Figure(
        f"longest write, {name}", f"{seen.gap_s:.1f} s (device without a connection: {apart:.1f} s)"
    )


def _checked(scene: Scene) -> Figure:
    checked = scene.files.known.verify()
    found = complaints(kernel_log())
    _check(not found, f"the kernel has nothing to complain of: {found}")
    return Figure("files on ext4 read back right", f"{checked >> 20} MiB")


def kernel_log() -> str:
    """The kernel's messages."""
    argv = ["dmesg"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=END_WAIT_S)
    return done.stdout


def timeouts(log: str, device: str) -> int:
    """How many times requests of a device timed out, those that did so together counted once."""
    pattern = rf"^\[ *([0-9.]+)\] block {device}: Connection timed out"
    times = [float(found) for found in re.findall(pattern, log, re.MULTILINE)]
    pairs = zip([-ROUND_S, *times], times, strict=False)
    return sum(later - earlier >= ROUND_S for earlier, later in pairs)


def unconnected_s(log: str, device: str) -> float:
    """The longest time that a device was without a connection, by the kernel's messages."""
    pattern = rf"^\[ *([0-9.]+)\] block {device}: (Receive control failed|reconnected socket)"
    lost, longest = None, 0.0
    for time, what in re.findall(pattern, log, re.MULTILINE):
        if what.startswith("Receive"):
            lost = float(time)
        elif lost is not None:
            longest, lost = max(longest, float(time) - lost), None
    return longest


def complaints(log: str) -> list[str]:
    """Lines of the kernel's messages that tell of an error."""
    return [line for line in log.splitlines() if any(text in line for text in COMPLAINTS)]


def _take_down(scene: Scene, csi: Csi, made: CsiVolume, base: Path) -> None:
    csi.unpublish(made, NODE, base / "staging", base / "target")
    csi.delete(made)
    scene.cluster.cli("volume", "detach", RAW_VOLUME, "--node", NODE)
    scene.cluster.cli("volume", "delete", RAW_VOLUME)
    left = sysfs.nbd_backends("drystone-")
    _check(not left, f"no device is left: {left}")


def _device_of(volume: CsiVolume) -> str:
    name = sysfs.nbd_of(f"drystone-{volume.engine_id}")
    return f"/dev/{name}" if name else "none"


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise FailedCheckError(what)
