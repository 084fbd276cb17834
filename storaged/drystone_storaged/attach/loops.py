"""Which loop device is ours, also when its file has no path any more.

A lazily unmounted file system takes the paths of its files away: a loop device on one shows
``/volume``, as every other such device does. So its name is noted when it is made, with the
kernel's sequence number of what is in the device: a device that was given to somebody else since
has another one. A path counts only while the file system is mounted here: other mount namespaces
have the same paths for other files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

from drystone_common.errors import DataError, NotFoundError
from drystone_common.files import read_json
from drystone_storaged.attach import sysfs

FILE_NAME: Final = "loop.json"
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class LoopDevice:
    """The loop device on ``file``, whose process keeps its things in ``folder``."""

    def __init__(
        self,
        folder: Path,
        file: Path,
        sys_block: Path = sysfs.SYS_BLOCK,
        *,
        mounted: Callable[[], bool],
    ) -> None:
        self._note = folder / FILE_NAME
        self._file = file
        self._sys_block = sys_block
        self._mounted = mounted

    def note(self, name: str) -> None:
        """Remember the device that was just made; it need not outlive this boot."""
        content = self._content(name)
        # Kernels before 5.15 do not number contents; there the path alone must do.
        if content:
            self._note.write_text(json.dumps({"name": name, "content": content}))

    def find(self) -> str | None:
        """Its name, such as ``loop3``, or None if there is none."""
        noted = self._noted()
        if noted is not None or not self._mounted():
            return noted
        return sysfs.loop_of(self._file, self._sys_block)

    def forget(self) -> None:
        """Take the note away: what it names belongs to a file that is gone."""
        self._note.unlink(missing_ok=True)

    def _noted(self) -> str | None:
        try:
            data = read_json(self._note)
        except (NotFoundError, DataError):
            return None
        if not isinstance(data, dict):
            return None
        name, content = data.get("name"), data.get("content")
        if not isinstance(name, str) or "/" in name or not name.startswith("loop"):
            return None
        in_use = sysfs.text(self._sys_block / name / "loop" / "backing_file") is not None
        return name if in_use and content == self._content(name) else None

    def _content(self, name: str) -> str | None:
        """What is in the device now, in a form that never comes back."""
        sequence = sysfs.text(self._sys_block / name / "diskseq")
        return f"{sysfs.text(BOOT_ID)} {sequence}" if sequence else None
