"""Writes the Python modules of every protobuf definition in the tree.

CSI's definitions stand beside their generated modules; those of the control API stand in
``proto/`` and become ``drystone_storaged.proto``. Either way generated imports are absolute
(``from drystone_csi.proto import csi_pb2``). ``--out DIR`` writes elsewhere: the test that
compares the committed files with fresh ones uses it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Source:
    """A folder of definitions and the import package that its modules belong to."""

    folder: str
    source_root: str
    package: str

    def files(self) -> list[Path]:
        """List the definitions, in a stable order."""
        return sorted((ROOT / self.folder).glob("*.proto"))


SOURCES = (
    Source("csi/drystone_csi/proto", "csi", "drystone_csi/proto"),
    Source("proto", "storaged", "drystone_storaged/proto"),
)


def generate(source: Source, out: Path) -> None:
    """Run protoc once for the definitions of one folder."""
    out.mkdir(parents=True, exist_ok=True)
    plugins = Path(sys.executable).parent
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            # protoc sees the folder under the package's name, wherever it really is.
            f"--proto_path={source.package}={ROOT / source.folder}",
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
            f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            *(f"{source.package}/{path.name}" for path in source.files()),
        ],
        check=True,
        timeout=120,
    )


def main() -> int:
    """Generate everything; print what was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write below this folder instead of in place")
    chosen: Path | None = parser.parse_args().out
    for source in SOURCES:
        if source.files():
            base = chosen.absolute() if chosen else ROOT
            generate(source, base / source.source_root)
        for path in source.files():
            print(f"generated from {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
