"""Blank is a claim: it is made only when everything agrees, and of real files and devices."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import threading
import uuid
from pathlib import Path

import pytest

from drystone_common.errors import DataError
from drystone_storaged.attach.command import SystemRunner
from drystone_storaged.server import examine
from drystone_storaged.server.examine import SIZE_MIN, Examiner, State
from tests.storaged.fake_devices import FakeRunner
from tests.storaged.fake_native import FakeTools
from tests.storaged.manager_env import until

MIB = 1 << 20
OURS = uuid.UUID(int=1)
native = pytest.importorskip("drystone_native")


def image(path: Path, size: int = 2048 * MIB, content: bytes = b"", at: int = 0) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        file.seek(at)
        file.write(content)
    return path


def run(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=60, capture_output=True)


def formatted(path: Path, cluster: uuid.UUID) -> str:
    drive = str(uuid.uuid4())
    spec = {"cluster": str(cluster), "uuid": drive, "feature_level": 1, "segment_bytes": MIB}
    native.format_drive(str(image(path)), json.dumps(spec))
    return drive


@pytest.fixture
def examiner():
    return Examiner(SystemRunner(), native, OURS)


async def test_an_empty_file_of_zeros_is_blank(examiner, tmp_path):
    path = image(tmp_path / "a.img")
    assert (await examiner.examine(str(path))).state is State.BLANK
    await examiner.require_blank(str(path))


@pytest.mark.parametrize("at", [0, 500_000, MIB - 1, 2047 * MIB, 2048 * MIB - 1])
async def test_one_byte_near_an_end_is_data(examiner, tmp_path, at):
    path = image(tmp_path / "a.img", content=b"x", at=at)
    found = await examiner.examine(str(path))
    assert (found.state, found.found) == (State.FOREIGN, "data without a known signature")
    with pytest.raises(DataError) as caught:
        await examiner.require_blank(str(path))
    assert caught.value.code == "drive_foreign"


@pytest.mark.skipif(not shutil.which("mkfs.ext4"), reason="mkfs.ext4 is not installed")
async def test_a_file_system_is_named(examiner, tmp_path):
    path = image(tmp_path / "a.img")
    run("mkfs.ext4", "-q", "-F", str(path))
    found = await examiner.examine(str(path))
    assert (found.state, found.found) == (State.FOREIGN, "ext4 file system")


async def test_what_is_too_small_for_a_drive_is_said_before_anybody_asks_for_it(examiner, tmp_path):
    for size, words in ((0, "too small"), (SIZE_MIN - 4096, "too small"), (SIZE_MIN, "")):
        found = await examiner.examine(str(image(tmp_path / f"{size}.img", size)))
        assert (found.state is State.BLANK) == (not words)
        assert words in found.found
    spec = {"cluster": str(OURS), "uuid": str(uuid.uuid4()), "feature_level": 1}
    with pytest.raises(Exception, match="too small"):
        native.format_drive(str(image(tmp_path / "a.img", SIZE_MIN - 4096)), json.dumps(spec))
    native.format_drive(str(tmp_path / f"{SIZE_MIN}.img"), json.dumps(spec))


async def test_a_partition_table_and_swap_are_named(examiner, tmp_path):
    signature = bytes(446) + b"\x00\x20\x21\x00\x83\xfe\xff\xff\x00\x08\x00\x00\x00\x00\x01\x00"
    mbr = image(tmp_path / "mbr.img", content=signature.ljust(510, b"\0") + b"\x55\xaa")
    assert (await examiner.examine(str(mbr))).found == "partition table dos"
    swap = image(tmp_path / "swap.img")
    run("mkswap", "-q", str(swap))
    assert "swap" in (await examiner.examine(str(swap))).found


async def test_a_drive_of_this_cluster_is_ours_and_of_another_one_foreign(examiner, tmp_path):
    mine = formatted(tmp_path / "a.img", OURS)
    other = uuid.UUID(int=2)
    formatted(tmp_path / "b.img", other)
    found = await examiner.examine(str(tmp_path / "a.img"))
    assert (found.state, found.drive) == (State.OURS, mine)
    found = await examiner.examine(str(tmp_path / "b.img"))
    assert (found.state, found.found) == (State.FOREIGN, f"drystone drive of cluster {other}")
    assert not found.drive


async def test_a_damaged_drive_of_ours_is_not_blank(examiner, tmp_path):
    path = tmp_path / "a.img"
    formatted(path, OURS)
    with path.open("r+b") as file:
        file.write(bytes(MIB))
    assert (await examiner.examine(str(path))).state is not State.BLANK


async def test_a_file_that_another_process_has_locked_is_in_use(examiner, tmp_path):
    import fcntl

    path = image(tmp_path / "a.img")
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert (await examiner.examine(str(path))).state is State.IN_USE
    assert (await examiner.examine(str(path))).state is State.BLANK


async def test_what_is_gone_is_gone_and_what_is_no_device_is_foreign(examiner, tmp_path):
    assert (await examiner.examine(str(tmp_path / "none"))).state is State.GONE
    assert (await examiner.examine(str(tmp_path))).state is State.FOREIGN
    os.mkfifo(tmp_path / "fifo")
    assert (await examiner.examine(str(tmp_path / "fifo"))).state is State.FOREIGN


async def test_a_blkid_that_fails_or_disagrees_with_itself_is_never_blank(tmp_path):
    runner = FakeRunner()
    path = str(image(tmp_path / "a.img"))
    examiner = Examiner(runner, native, OURS)
    runner.broken.add("blkid")
    assert (await examiner.examine(path)).state is State.FOREIGN
    runner.broken.clear()
    runner.signatures[path] = ["", "TYPE=xfs\nUSAGE=filesystem\n"]
    found = await examiner.examine(path, fresh=True)
    assert (found.state, "disagree" in found.found) == (State.FOREIGN, True)
    del runner.signatures[path]
    assert (await examiner.examine(path, fresh=True)).state is State.BLANK


async def test_what_did_not_change_is_not_probed_again_unless_that_is_asked(tmp_path):
    runner = FakeRunner()
    path = image(tmp_path / "a.img")
    examiner = Examiner(runner, native, OURS)
    await examiner.examine(str(path))
    probes = len(runner.calls)
    await examiner.examine(str(path))
    assert len(runner.calls) == probes
    await examiner.examine(str(path), sequence="another disk")
    assert len(runner.calls) == 2 * probes
    image(path, content=b"new")
    assert (await examiner.examine(str(path), sequence="another disk")).state is State.FOREIGN
    await examiner.examine(str(path), sequence="another disk", fresh=True)
    assert len(runner.calls) == 4 * probes


class Hanging(FakeTools):
    """A disk that does not answer until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.asked = 0

    def inspect_drive(self, path: str) -> str:
        self.asked += 1
        self.go.wait(60)
        return super().inspect_drive(path)


async def test_a_disk_that_hangs_is_left_alone_and_others_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(examine, "PROBE_S", 0.05)
    tools = Hanging()
    dead, alive = tmp_path / "a.img", tmp_path / "b.img"
    dead.touch()
    examiner = Examiner(FakeRunner(), tools, OURS)
    try:
        assert "did not answer" in (await examiner.examine(str(dead))).found
        assert "did not answer" in (await examiner.examine(str(dead))).found
        assert tools.asked == 1, "one thread for a dead disk, not one each look"
        assert (await examiner.examine(str(alive))).state is State.GONE
    finally:
        tools.go.set()
    monkeypatch.setattr(examine, "PROBE_S", 20.0)

    async def answers() -> bool:
        return (await examiner.examine(str(dead))).state is State.BLANK

    await until(answers, "the disk that woke up")


async def test_only_so_many_dead_disks_keep_a_thread_each(tmp_path, monkeypatch):
    monkeypatch.setattr(examine, "PROBE_S", 0.05)
    tools = Hanging()
    examiner = Examiner(FakeRunner(), tools, OURS)
    paths = [tmp_path / f"{n}.img" for n in range(examine.HUNG_MAX + 4)]
    for path in paths:
        path.touch()
    try:
        found = await asyncio.gather(*(examiner.examine(str(p)) for p in paths))
        await asyncio.gather(*(examiner.examine(str(p)) for p in paths))
        assert {f.state for f in found} == {State.FOREIGN}
        assert tools.asked <= len(paths)
        assert len(examiner._hung) >= examine.HUNG_MAX
    finally:
        tools.go.set()
    await until(lambda: all(f.done() for f in examiner._hung.values()), "the threads' end")


ROOT = os.geteuid() == 0 and shutil.which("losetup") and Path("/dev/loop-control").exists()


@pytest.fixture
def loop(tmp_path):
    """A loop device on a file; gone at the end, also when the test fails."""
    path = image(tmp_path / "disk")
    made = subprocess.run(
        ["losetup", "--find", "--show", str(path)], capture_output=True, text=True, timeout=30,
        check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"no loop device: {made.stderr.strip()}")
    device = made.stdout.strip()
    yield device
    subprocess.run(["losetup", "--detach", device], check=False, timeout=30)


@pytest.mark.skipif(not ROOT, reason="needs root and loop devices")
async def test_a_real_device_is_blank_then_ours_and_its_file_is_in_use(examiner, loop, tmp_path):
    assert (await examiner.examine(loop)).state is State.BLANK
    behind = await examiner.examine(str(tmp_path / "disk"))
    assert (behind.state, behind.found) == (State.IN_USE, f"behind {loop}")
    drive = str(uuid.uuid4())
    spec = {"cluster": str(OURS), "uuid": drive, "feature_level": 1, "segment_bytes": MIB}
    native.format_drive(loop, json.dumps(spec))
    found = await examiner.examine(loop)
    assert (found.state, found.drive) == (State.OURS, drive)


@pytest.mark.skipif(not ROOT, reason="needs root and loop devices")
async def test_a_device_that_somebody_holds_is_in_use(examiner, loop):
    holder = os.open(loop, os.O_RDONLY | os.O_EXCL)
    try:
        assert (await examiner.examine(loop)).state is State.IN_USE
    finally:
        os.close(holder)
    assert (await examiner.examine(loop)).state is State.BLANK
