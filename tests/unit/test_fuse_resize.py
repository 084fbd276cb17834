"""A volume on FUSE that grew: its loop device shows it, also where a look at the file was vain."""

from __future__ import annotations

from pathlib import Path

import pytest

from drystone_common.errors import ConflictError
from drystone_storaged.attach import fuse, sysfs
from drystone_storaged.attach.command import Completed
from drystone_storaged.attach.fuse import FuseAttacher
from drystone_storaged.attach.fuse_process import FuseProcess
from drystone_storaged.attach.loops import LoopDevice

VOLUME = "00000000000000ab"
OLD, NEW = 1 << 20, 2 << 20


class Kernel:
    """Knows the size of the file of its last good look; the first ``vain`` looks are none."""

    def __init__(self, vain: int) -> None:
        self.vain = vain
        self.steps: list[str] = []
        self.known = self.shown = OLD

    async def run(self, argv, **_more) -> Completed:
        self.steps.append(" ".join(argv))
        self.shown = self.known
        return Completed(0, "", "")

    def look(self) -> None:
        self.steps.append("stat")
        if self.vain:
            self.vain -= 1
        else:
            self.known = NEW


@pytest.fixture
def grown(monkeypatch, tmp_path):
    def make(vain: int) -> tuple[Kernel, FuseAttacher]:
        kernel = Kernel(vain)
        attacher = FuseAttacher(tmp_path, Path("/bin/false"), kernel)

        async def command(_self, line):
            kernel.steps.append(line)
            return {"ok": True}

        class File:
            def stat(self) -> None:
                kernel.look()

        monkeypatch.setattr(FuseProcess, "command", command)
        monkeypatch.setattr(LoopDevice, "find", lambda _self: "loop9")
        monkeypatch.setattr(sysfs, "size_bytes", lambda _name: kernel.shown)
        real = attacher._process

        def process(volume_id):
            made = real(volume_id)
            monkeypatch.setattr(made, "file", File())
            return made

        monkeypatch.setattr(attacher, "_process", process)
        return kernel, attacher

    return make


async def test_the_file_is_looked_at_before_the_loop_device_takes_its_size(grown):
    kernel, attacher = grown(0)
    assert (await attacher.resize(VOLUME, NEW)).size_bytes == NEW
    assert kernel.steps == [f"resize {NEW}", "stat", "losetup --set-capacity /dev/loop9"]


async def test_a_look_that_a_write_made_vain_is_made_again(grown):
    kernel, attacher = grown(3)
    assert (await attacher.resize(VOLUME, NEW)).size_bytes == NEW
    assert kernel.steps.count("stat") == 4


async def test_a_device_that_does_not_grow_is_an_error_and_no_success(grown, monkeypatch):
    monkeypatch.setattr(fuse, "GROW_WAIT_S", 0.05)
    _, attacher = grown(1 << 30)
    with pytest.raises(ConflictError, match="shows 1048576 bytes") as caught:
        await attacher.resize(VOLUME, NEW)
    assert caught.value.code == "resize_incomplete"
