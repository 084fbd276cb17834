"""What the real tools say of file systems in plain files: no device and no root is needed."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from drystone_csi.devices import Devices, Signature
from drystone_storaged.attach.command import SystemRunner

MIB = 1 << 20
TOOLS = ("blkid", "mkfs.ext4", "tune2fs", "dumpe2fs", "mkfs.xfs", "xfs_db")
pytestmark = pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in TOOLS), reason="needs e2fsprogs and xfsprogs"
)


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.truncate(320 * MIB)
    return str(path)


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, capture_output=True, timeout=60)


async def used(image: str) -> bool:
    devices = Devices(SystemRunner())
    found = await devices.probe(image)
    assert found is not None
    return await devices.used(image, found)


async def test_a_file_system_that_was_mounted_once_is_told_from_one_that_was_only_made(image):
    run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", image)
    assert not await used(image)
    run("tune2fs", "-C", "1", image)
    assert await used(image)
    run("mkfs.xfs", "-q", "-f", "-K", image)
    assert not await used(image)
    # As the kernel writes it at an unmount: where the log ends.
    run("xfs_db", "-x", "-c", "sb 0", "-c", "write -d lsn 0x100000002", image)
    assert await used(image)


async def test_what_this_driver_never_makes_is_used_and_what_cannot_be_read_is_not_proven(image):
    run("mkfs.ext4", "-q", "-F", "-E", "nodiscard", image)
    devices = Devices(SystemRunner())
    assert await devices.used(image, Signature("crypto_LUKS"))
    run("dd", "if=/dev/zero", f"of={image}", "bs=1M", "count=1", "conv=notrunc")
    assert not await devices.used(image, Signature("ext4"))
    assert not await devices.used(image, Signature("xfs"))
