"""Builds the image: `make image`, or `python3 -m scripts.image --help`."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Final

from scripts.image import debian, engines, sbom, tree, trees
from scripts.image.archive import ARCHITECTURES, ImageSpec, write_archive
from scripts.image.shell import ROOT, BuildError, run, say

NAME: Final = "localhost/drystone:dev"
OUTPUT: Final = ROOT / "dist" / "drystone-image.tar"
ENTRYPOINT: Final = ("/usr/bin/tini", "--", "/usr/local/bin/drystone")
MIB: Final = 1 << 20


def main() -> int:
    """Run one of the two commands; the exit code says whether it worked."""
    arguments = _parser().parse_args()
    try:
        if arguments.command == "tree":
            build_tree(arguments.into, arguments.dpkg_status.read_text(encoding="utf-8"))
        else:
            build(arguments)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m scripts.image", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    image = commands.add_parser("build", prog="scripts/image.sh", help="build the image")
    image.add_argument("--name", default=NAME, help="name and tag of the image")
    image.add_argument("--output", type=Path, default=OUTPUT, help="archive to write")
    image.add_argument("--cache", type=Path, default=cache_folder(), help="layers to use again")
    image.add_argument(
        "--engine", choices=("auto", "archive", *engines.ENGINES), default="auto",
        help="what builds it; archive needs no engine, only mmdebstrap",
    )  # fmt: skip
    image.add_argument("--fresh", action="store_true", help="take the newest Debian packages")
    inside = commands.add_parser("tree", help="what we add to Debian, for the Dockerfile")
    inside.add_argument("--into", type=Path, required=True, help="folder to fill")
    inside.add_argument("--dpkg-status", type=Path, required=True, help="of the base image")
    return parser


def cache_folder() -> Path:
    """Where layers are kept between builds."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "drystone" / "image"


def build(arguments: argparse.Namespace) -> None:
    """Build with an engine where one works, else without."""
    began = time.monotonic()
    engine = engines.find(arguments.engine)
    if engine is None:
        digest = build_archive(arguments)
    else:
        digest = engines.build(engine, arguments.name, arguments.output)
    size = arguments.output.stat().st_size
    say(
        f"{arguments.name} {digest[:19]}: {arguments.output}, {size / MIB:.0f} MiB, "
        f"in {time.monotonic() - began:.0f} s"
    )


def build_archive(arguments: argparse.Namespace) -> str:
    """Three layers: Debian, dependencies, ours; the first two are kept for the next build."""
    epoch, cache = commit_time(), arguments.cache
    # The first two must not change with every commit: one time for all of them.
    base = debian.base_layer(cache, epoch=0, fresh=arguments.fresh)
    with tempfile.TemporaryDirectory(prefix="drystone-image-") as text:
        folder = Path(text)
        dependencies = cache / f"python-{tree.dependencies_key()}.tar"
        if not dependencies.exists():
            tree.install_dependencies(folder / "dependencies")
            trees.tar_tree(folder / "dependencies", folder / "dependencies.tar", epoch=0)
            shutil.move(folder / "dependencies.tar", dependencies)
        own = folder / "own"
        tree.install_own(own, folder / "wheels")
        _unpack_metadata(dependencies, folder / "metadata")
        _write_bill(own, folder / "metadata" / tree.PACKAGES, debian.dpkg_status(base))
        layers = [base, dependencies, trees.tar_tree(own, folder / "own.tar", epoch=epoch)]
        for name, layer in zip(("Debian", "dependencies", "drystone"), layers, strict=True):
            say(f"layer {name}: {layer.stat().st_size / MIB:.0f} MiB")
        return write_archive(_spec(arguments.name, epoch), layers, arguments.output)


def build_tree(into: Path, dpkg_status: str) -> None:
    """Everything that we add to Debian, in one folder."""
    tree.install_dependencies(into)
    with tempfile.TemporaryDirectory(prefix="drystone-image-") as folder:
        tree.install_own(into, Path(folder))
    _write_bill(into, into / tree.PACKAGES, dpkg_status)


def _write_bill(into: Path, packages: Path, dpkg_status: str) -> None:
    text = sbom.bill(
        version=version(),
        packages=packages,
        cargo_lock=tree.NATIVE / "Cargo.lock",
        dpkg_status=dpkg_status,
    )
    path = into / tree.DOCUMENTS / "sbom.cdx.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _unpack_metadata(layer: Path, into: Path) -> None:
    """What a kept layer says of its wheels."""
    into.mkdir()
    run(["tar", "-xf", layer, "-C", into, "--wildcards", "*.dist-info/METADATA"])


def _spec(name: str, epoch: int) -> ImageSpec:
    machine = platform.machine()
    return ImageSpec(
        name=name,
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch)),
        architecture=ARCHITECTURES.get(machine, machine),
        entrypoint=ENTRYPOINT,
        user=debian.USER,
        labels={
            "org.opencontainers.image.title": "drystone",
            "org.opencontainers.image.version": version(),
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    )


def version() -> str:
    """The version of this checkout."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        return str(tomllib.load(file)["project"]["version"])


def commit_time() -> int:
    """The time that files get: that of the commit, so that a build can be repeated."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return int(given)
    try:
        return int(run(["git", "log", "-1", "--format=%ct"]))
    except (BuildError, ValueError):
        return 0  # a source archive without its history


if __name__ == "__main__":
    sys.exit(main())
