"""Files that are looked at, not watched: whether they are others than at the last look.

Kubernetes swaps a link far above the files of a Secret, which a watch on a file never sees.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

Stamp = tuple[int, int, int]


def stamp(path: str | Path) -> Stamp:
    """What differs when a file was replaced or written to, seen through every link."""
    known = os.stat(path)  # noqa: PTH116 - one call, through every link
    return known.st_ino, known.st_mtime_ns, known.st_size


def stamps(paths: Iterable[str | Path]) -> tuple[Stamp, ...]:
    """The same of several files; zeros for one that cannot be looked at."""
    return tuple(_or_zeros(path) for path in paths)


def _or_zeros(path: str | Path) -> Stamp:
    try:
        return stamp(path)
    except OSError:
        return (0, 0, 0)
