"""Steps about space: volumes grow while they are used, and deleted ones give everything back."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tests.e2e.demo.report import mib
from tests.e2e.demo.volumes import SIZE, take_down
from tests.e2e.demo.world import NODE, Volume, World
from tests.e2e.lib.csi import RAW
from tests.e2e.lib.nbd import Nbd
from tests.e2e.lib.waits import wait_for

GROWN: Final = 2 * SIZE
SIZE_WAIT_S: Final = 30.0
SPACE_WAIT_S: Final = 90.0
SPACE_LEFT_MAX: Final = 16 << 20
"""What may stay above the start: headers of the log, not data of volumes."""

CAP_SYS_RESOURCE: Final = 24  # capability number; the kernel asks for it to grow a mounted ext4


def expand(world: World) -> None:
    """Double every volume."""
    for volume in world.volumes.values():
        _expand(world, volume)
        world.report.line(f"volume {volume.csi.kind} has {mib(_size(world, volume))} now")
    world.verify_all()


def _expand(world: World, volume: Volume) -> None:
    if volume.csi.kind == "ext4" and world.mounted and not _has_capability(CAP_SYS_RESOURCE):
        world.report.line(
            "ext4 grows offline here: this machine does not grant CAP_SYS_RESOURCE, which the "
            "kernel wants for growing a mounted ext4"
        )
        take_down(world, volume)
        world.csi.expand(volume.csi, GROWN)
        world.csi.publish(volume.csi, NODE, volume.staging, volume.target)
    else:
        on_node = world.csi.expand(volume.csi, GROWN)
        if on_node and world.mounted:
            world.csi.node_expand(volume.csi, volume.staging, volume.target, GROWN)
    # A file system keeps some of its device for itself.
    least = GROWN if volume.csi.kind == RAW or not world.mounted else int(GROWN * 0.9)
    wait_for(lambda: _size(world, volume) >= least, f"{volume.csi.kind} grown", SIZE_WAIT_S)


def _size(world: World, volume: Volume) -> int:
    if not world.mounted:
        probe = Nbd(volume.where)
        probe.close()
        return probe.size
    if volume.csi.kind == RAW:
        file = os.open(volume.where, os.O_RDONLY)
        try:
            return os.lseek(file, 0, os.SEEK_END)
        finally:
            os.close(file)
    found = os.statvfs(volume.where)
    return found.f_blocks * found.f_frsize


def _has_capability(number: int) -> bool:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> number & 1)
    return False


def delete(world: World) -> None:
    """Delete every volume; the drives must become as empty as they were."""
    report, cluster = world.report, world.cluster
    full = cluster.used_bytes()
    for volume in world.volumes.values():
        take_down(world, volume)
        world.csi.delete(volume.csi)
    world.volumes.clear()
    limit = world.used_at_start + SPACE_LEFT_MAX
    wait_for(
        lambda: cluster.used_bytes() <= limit,
        f"space of deleted volumes (used {mib(full)}, at the start {mib(world.used_at_start)})",
        SPACE_WAIT_S,
        poll_s=0.5,
    )
    report.figure(
        "space used", f"{mib(full)} before the deletes, {mib(cluster.used_bytes())} after"
    )
