"""Loop devices are recognised when their files lost their paths, and nobody else's are touched."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from drystone_storaged.attach.fuse import FuseAttacher
from drystone_storaged.attach.interface import AttachSpec, Endpoint
from drystone_storaged.attach.loops import FILE_NAME, LoopDevice

VOLUME = "00000000000000ab"
OTHER = "00000000000000cd"

needs_loops = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts and loop devices"),
    pytest.mark.skipif(not Path("/dev/loop-control").exists(), reason="no loop devices"),
    pytest.mark.skipif(shutil.which("losetup") is None, reason="losetup is missing"),
]


class FakeSys:
    """`/sys/block` as far as it is looked at."""

    def __init__(self, folder: Path) -> None:
        self.root = folder

    def put(self, name: str, backing: str | None, sequence: int) -> None:
        shutil.rmtree(self.root / name, ignore_errors=True)
        (self.root / name).mkdir(parents=True)
        (self.root / name / "diskseq").write_text(f"{sequence}\n")
        if backing is not None:
            (self.root / name / "loop").mkdir()
            (self.root / name / "loop" / "backing_file").write_text(f"{backing}\n")


@pytest.fixture
def fake(tmp_path):
    return FakeSys(tmp_path / "sys")


@pytest.fixture
def device(tmp_path, fake):
    (tmp_path / "v").mkdir()
    return LoopDevice(
        tmp_path / "v", tmp_path / "v" / "mnt" / "volume", fake.root, mounted=lambda: True
    )


def test_a_device_is_found_by_its_path_and_by_its_note_when_the_path_is_gone(device, fake):
    fake.put("loop3", str(device._file), 7)
    assert device.find() == "loop3"
    device.note("loop3")
    fake.put("loop3", "/volume", 7)
    assert device.find() == "loop3"


def test_a_path_of_another_mount_namespace_is_not_ours(tmp_path, fake):
    (tmp_path / "v").mkdir()
    file = tmp_path / "v" / "mnt" / "volume"
    elsewhere = LoopDevice(tmp_path / "v", file, fake.root, mounted=lambda: False)
    fake.put("loop3", str(file), 7)
    assert elsewhere.find() is None
    elsewhere.note("loop3")
    assert elsewhere.find() == "loop3"
    elsewhere.forget()
    assert elsewhere.find() is None


def test_a_note_counts_before_a_path(device, fake):
    fake.put("loop3", str(device._file), 7)
    fake.put("loop4", str(device._file), 8)
    device.note("loop4")
    assert device.find() == "loop4"


def test_a_device_that_holds_something_else_by_now_is_not_ours(device, fake):
    fake.put("loop3", str(device._file), 7)
    device.note("loop3")
    fake.put("loop3", "/volume", 8)
    assert device.find() is None
    fake.put("loop3", None, 7)
    assert device.find() is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "../sda", "content": null}', "\xff"])
def test_a_damaged_note_is_no_device(device, fake, tmp_path, text):
    fake.put("loop3", "/volume", 7)
    (tmp_path / "v" / FILE_NAME).write_text(text)
    assert device.find() is None


@contextlib.contextmanager
def mounted(attacher: FuseAttacher, volume: str) -> Iterator[Path]:
    """A file system in the place of a helper's; unmounted lazily at the end, as one that died."""
    file = attacher._process(volume).file
    file.parent.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", file.parent], check=True)
    try:
        with file.open("wb") as stream:
            stream.truncate(1 << 20)
        yield file
    finally:
        subprocess.run(["umount", "--lazy", file.parent], check=True)


async def loop_on(attacher: FuseAttacher, volume: str) -> str:
    with mounted(attacher, volume) as file:
        spec = AttachSpec(volume, Endpoint(file.parent / "no.sock", ""), 1 << 20, read_only=False)
        name = await attacher._make_loop(spec, attacher._process(volume))
    assert backing(name) == "/volume", "the kernel shows no path of a lazily unmounted file"
    return name


def backing(name: str) -> str | None:
    path = Path(f"/sys/block/{name}/loop/backing_file")
    return path.read_text().strip() if path.exists() else None


@pytest.fixture
def remove_loops():
    """Whatever a test leaves after a failure."""
    made: list[str] = []
    yield made
    for name in made:
        if backing(name) == "/volume":
            subprocess.run(["losetup", "--detach", f"/dev/{name}"], check=False)


class TestReal:
    pytestmark = needs_loops

    async def test_a_device_without_a_path_is_removed_and_a_strangers_stays(
        self, tmp_path, remove_loops
    ):
        ours = FuseAttacher(tmp_path / "ours", Path("unused"))
        strangers = FuseAttacher(tmp_path / "strangers", Path("unused"))
        mine, other = await loop_on(ours, VOLUME), await loop_on(strangers, OTHER)
        remove_loops += [mine, other]
        await ours.detach(VOLUME, force=True)
        assert backing(mine) is None
        assert await ours.found() == ()
        assert backing(other) == "/volume"

    async def test_the_device_of_a_dead_helper_is_dropped_and_only_that(
        self, tmp_path, remove_loops
    ):
        ours = FuseAttacher(tmp_path / "ours", Path("unused"))
        name = await loop_on(ours, VOLUME)
        remove_loops.append(name)
        assert await FuseAttacher(tmp_path / "others", Path("unused")).drop_dead() == ()
        assert backing(name) == "/volume"
        assert await ours.drop_dead() == (name,)
        assert backing(name) is None
        assert await ours.found() == (VOLUME,), "the next start makes it anew"
