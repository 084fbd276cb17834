"""Images of the lab itself: one static program each, as upstream's images of the same names."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Final

from scripts.image.archive import ImageSpec, write_archive
from scripts.image.trees import tar_tree

from tests.e2e.kube.settings import Lab

PROGRAMS: Final = (
    "pause",
    "csi-provisioner",
    "csi-attacher",
    "csi-resizer",
    "csi-snapshotter",
    "snapshot-controller",
    "csi-node-driver-registrar",
    "livenessprobe",
    "etcd",
)
CREATED: Final = "2000-01-01T00:00:00Z"
BESIDE: Final = {"etcd": ("etcdctl",)}  # programs that upstream's image has too
FOLDERS: Final = {"etcd": "usr/local/bin"}  # elsewhere a command line names it


def name(program: str) -> str:
    """Name of the image of a program."""
    return f"localhost/drystone-lab/{program}:1"


def archives(lab: Lab) -> list[Path]:
    """All of them, made when they are missing or older than their programs."""
    return [_archive(lab, program) for program in PROGRAMS]


def _archive(lab: Lab, program: str) -> Path:
    archive = lab.cache / "images" / f"{program}.tar"
    sources = [lab.bin / name for name in (program, *BESIDE.get(program, ()))]
    newest = max(source.stat().st_mtime for source in sources)
    if archive.exists() and archive.stat().st_mtime > newest:
        return archive
    with tempfile.TemporaryDirectory(dir=lab.cache) as text:
        tree, folder = Path(text) / "tree", FOLDERS.get(program, "bin")
        for made in (folder, "etc", "tmp"):
            (tree / made).mkdir(parents=True)
        (tree / "tmp").chmod(0o1777)
        for source in sources:
            shutil.copy(source, tree / folder)
        layer = tar_tree(tree, Path(text) / "layer.tar", epoch=0)
        spec = ImageSpec(name(program), CREATED, entrypoint=(f"/{folder}/{program}",))
        write_archive(spec, [layer], archive)
    return archive
