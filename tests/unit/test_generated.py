"""Generated files are committed; this regenerates them and compares."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.unit.source_tree import ROOT


def generated_below(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for source_root in ("csi", "storaged")
        for path in sorted((root / source_root).glob("drystone_*/**/*_pb2*"))
        if path.suffix in {".py", ".pyi"}
    }


def test_committed_protobuf_modules_equal_freshly_generated_ones(tmp_path):
    subprocess.run(
        [sys.executable, "scripts/generate.py", "--out", str(tmp_path)],
        cwd=ROOT,
        check=True,
        timeout=100,
        capture_output=True,
    )
    fresh, committed = generated_below(tmp_path), generated_below(ROOT)
    assert sorted(fresh) == sorted(committed), "run `make generate` and commit the result"
    changed = [name for name in fresh if fresh[name] != committed[name]]
    assert not changed, "run `make generate` and commit the result"
