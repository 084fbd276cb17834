"""Making volumes usable, as an orchestrator would, or as plain NBD exports without root."""

from __future__ import annotations

from typing import Final

from drystone_storaged.attach.interface import AttacherKind
from drystone_storaged.attach.probe import Host
from tests.e2e.demo.world import NODE, Volume, World, is_root
from tests.e2e.lib.blocks import BlockSet
from tests.e2e.lib.csi import RAW
from tests.e2e.lib.files import FileSet

KINDS: Final = ("ext4", "xfs", RAW)
SIZE: Final = 1 << 30
KNOWN_FIRST: Final = 1 << 14
"""Block 16384 (64 MiB): behind what the measuring writer uses."""

FIRST_ADDS: Final = 16  # 16 MiB a volume before anything is broken


def can_mount() -> bool:
    """Whether this machine and user can have block devices and mounts."""
    return is_root() and Host.look().kinds()[0] is not AttacherKind.EXPORT


def create(world: World) -> None:
    """CreateVolume for each kind."""
    for kind in KINDS:
        made = world.csi.create(f"demo-{kind}", kind, SIZE)
        base = world.cluster.folder.parent / "mounts" / kind
        world.volumes[kind] = Volume(made, base / "staging", base / "target")
        world.report.line(f"CreateVolume {made.name}: {made.volume_id}")


def bring_up(world: World) -> None:
    """Publish, stage and mount, or export; then the first known data."""
    for seed, volume in enumerate(world.volumes.values(), start=100):
        if world.mounted:
            world.csi.publish(volume.csi, NODE, volume.staging, volume.target)
            volume.where = str(volume.target)
        else:
            found = world.cluster.attach(volume.csi.engine_id, NODE, "export")
            volume.where = found["nbd_uri"]
        if world.mounted and volume.csi.kind != RAW:
            volume.known = FileSet(volume.target)
        else:
            volume.known = BlockSet(volume.where, KNOWN_FIRST, seed)
        for _ in range(FIRST_ADDS):
            volume.known.add()
        world.report.line(f"{volume.csi.name} is at {volume.where}")


def take_down(world: World, volume: Volume) -> None:
    """The way back: unmount, detach, unpublish."""
    if world.mounted:
        world.csi.unpublish(volume.csi, NODE, volume.staging, volume.target)
    else:
        world.cluster.cli("volume", "detach", volume.csi.engine_id, "--node", NODE)
