"""A folder as a layer: the same content gives the same bytes, whoever builds it and when."""

from __future__ import annotations

import tarfile
from pathlib import Path


def tar_tree(tree: Path, output: Path, *, epoch: int) -> Path:
    """Pack a folder, sorted, owned by root, with one time for everything."""
    output.parent.mkdir(parents=True, exist_ok=True)

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mtime = epoch
        return entry

    with tarfile.open(output, "w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(tree.rglob("*")):
            tar.add(path, arcname=str(path.relative_to(tree)), recursive=False, filter=plain)
    return output


def size_bytes(tree: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.lstat().st_size for path in tree.rglob("*") if not path.is_dir())
