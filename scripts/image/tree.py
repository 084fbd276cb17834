"""Our part of the image: locked dependencies, the two wheels, the programs."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from scripts.image.shell import ROOT, run, say

PYTHON: Final = "3.11"  # Debian 12's; it looks for packages in the folder below by itself
PACKAGES: Final = Path("usr/local/lib") / f"python{PYTHON}" / "dist-packages"
PROGRAMS: Final = Path("usr/local/bin")
DOCUMENTS: Final = Path("usr/share/doc/drystone")
NATIVE: Final = ROOT / "storaged" / "native"

# -s and no PYTHON* variables: nothing that a pod's environment says changes what is imported.
LAUNCHER: Final = """#!/usr/bin/python3 -sE
import sys
from drystone_cli.main import main
sys.exit(main())
"""


def uv() -> str:
    """The pinned uv of the checkout, else the one on PATH."""
    own = ROOT / ".tools" / "uv" / "bin" / "uv"
    return str(own) if own.exists() else "uv"


def locked_requirements() -> str:
    """Every dependency at run time, with its version and hashes, from uv.lock."""
    return run(
        [uv(), "export", "--frozen", "--no-dev", "--no-emit-workspace", "--no-header",
         "--no-annotate", "--quiet"],
    )  # fmt: skip


def dependencies_key() -> str:
    """Changes when a dependency does."""
    return hashlib.sha256(f"{PYTHON}\n{locked_requirements()}".encode()).hexdigest()[:16]


def install_dependencies(tree: Path) -> None:
    """Install what others wrote, wheels only, each checked against its hash."""
    say("locked dependencies")
    with tempfile.TemporaryDirectory() as folder:
        requirements = Path(folder) / "requirements.txt"
        requirements.write_text(locked_requirements(), encoding="utf-8")
        _pip(tree, "--require-hashes", "--only-binary", ":all:", "--requirement", requirements)
    _compile(tree / PACKAGES)


def install_own(tree: Path, wheels: Path) -> None:
    """Build and install our two wheels and the FUSE program."""
    wheels.mkdir(parents=True, exist_ok=True)
    for old in wheels.glob("drystone*.whl"):
        old.unlink()
    for name, source in (("drystone", ROOT), ("drystone-native", NATIVE / "bindings")):
        say(f"wheel of {name}")
        run([uv(), "build", "--quiet", "--wheel", "--out-dir", wheels, source], env=_cargo())
    _pip(tree, "--no-deps", *sorted(wheels.glob("drystone*.whl")))
    _compile(tree / PACKAGES)
    _programs(tree)


def _programs(tree: Path) -> None:
    say("FUSE program")
    run(
        ["cargo", "build", "--quiet", "--release", "--locked", "-p", "drystone-fe-fuse",
         "--manifest-path", NATIVE / "Cargo.toml"],
        env=_cargo(),
    )  # fmt: skip
    folder = tree / PROGRAMS
    folder.mkdir(parents=True, exist_ok=True)
    target = Path(_cargo()["CARGO_TARGET_DIR"])
    shutil.copyfile(target / "release" / "drystone-fuse", folder / "drystone-fuse")
    (folder / "drystone").write_text(LAUNCHER, encoding="utf-8")
    for program in (folder / "drystone-fuse", folder / "drystone"):
        program.chmod(0o755)
    # Debug information is five times the code; the build's own copy keeps it.
    native = sorted((tree / PACKAGES / "drystone_native").glob("*.so"))
    run(["strip", "--strip-debug", folder / "drystone-fuse", *native])
    documents = tree / DOCUMENTS
    documents.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "LICENSE", documents / "copyright")


def _pip(tree: Path, *words: str | Path) -> None:
    target = tree / PACKAGES
    target.mkdir(parents=True, exist_ok=True)
    run(
        [uv(), "pip", "install", "--quiet", "--target", target, "--python-version", PYTHON,
         "--no-config", *words],
    )  # fmt: skip
    # Start scripts of packages, with this machine's interpreter in their first line.
    shutil.rmtree(target / "bin", ignore_errors=True)
    (target / ".lock").unlink(missing_ok=True)


def _compile(packages: Path) -> None:
    """Compile ahead: the image is read-only, and every start would compile again.

    Not checked against the source's time, because the layer has one time for everything.
    """
    run(
        ["python3", "-m", "compileall", "-q", "-j", "1", "--invalidation-mode", "unchecked-hash",
         "-s", packages, "-p", Path("/") / PACKAGES, packages],
    )  # fmt: skip


def _cargo() -> dict[str, str]:
    return {"CARGO_TARGET_DIR": os.environ.get("CARGO_TARGET_DIR", str(NATIVE / "target"))}
