"""Which size a volume gets, and the smallest that a file system takes. Pure."""

from __future__ import annotations

from typing import Final

from drystone_common.errors import InvalidArgumentError
from drystone_common.units import SIZE_MAX, human_size, round_up
from drystone_csi.model import FileSystem
from drystone_csi.proto import csi_pb2

MIB: Final = 1 << 20

GRANULARITY: Final = MIB
"""Sizes are whole MiB: a multiple of every block size that a file system or guest may want."""

DEFAULT_SIZE: Final = 1024 * MIB
"""When nobody says a size: what the example driver of the CSI project gives too."""

FS_SIZE_MIN: Final = {
    # The smallest on which mkfs.ext4 without a journal leaves room for files.
    FileSystem.EXT4: MIB,
    # mkfs.xfs refuses less since xfsprogs 5.19.
    FileSystem.XFS: 300 * MIB,
}

EXT4_JOURNAL_SIZE_MIN: Final = 16 * MIB
"""Below this a journal (at least 1024 blocks) would take a quarter of the volume or more."""


def choose(wanted: csi_pb2.CapacityRange, fs: FileSystem | None) -> int:
    """Give the size in bytes for a capacity range, or an error of code ``size_out_of_range``."""
    required, limit = wanted.required_bytes, wanted.limit_bytes
    if required < 0 or limit < 0 or (limit and required > limit):
        raise InvalidArgumentError(f"the capacity range {required}..{limit} is empty")
    smallest = FS_SIZE_MIN[fs] if fs else GRANULARITY
    if required:
        if required > SIZE_MAX - GRANULARITY:
            raise _out_of_range(f"{required} bytes are more than any volume can have")
        size = round_up(required, GRANULARITY)
    else:
        size = max(DEFAULT_SIZE, smallest)
        if limit:
            size = min(size, limit // GRANULARITY * GRANULARITY)
    if size < smallest:
        raise _out_of_range(
            f"{human_size(size)} is too small for {fs or 'a volume'}: "
            f"it needs {human_size(smallest)}"
        )
    if limit and size > limit:
        raise _out_of_range(f"the limit of {limit} bytes leaves no whole MiB above {required}")
    return size


def fits(size: int, wanted: csi_pb2.CapacityRange) -> bool:
    """Say whether a volume of this size satisfies the range."""
    limit = wanted.limit_bytes
    return size >= wanted.required_bytes and (not limit or size <= limit)


def _out_of_range(message: str) -> InvalidArgumentError:
    return InvalidArgumentError(message, code="size_out_of_range")
