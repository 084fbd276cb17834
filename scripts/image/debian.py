"""The Debian part of the image, from packages, without a container engine."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import tempfile
from pathlib import Path
from typing import Final

from scripts.image.shell import ROOT, BuildError, run, say

SUITE: Final = "bookworm"
PACKAGES: Final = ROOT / "scripts" / "image" / "packages.txt"
SOURCES: Final = Path("/etc/apt/sources.list.d/debian.sources")
MIRRORS: Final = (
    f"deb http://deb.debian.org/debian {SUITE} main",
    f"deb http://deb.debian.org/debian {SUITE}-updates main",
    f"deb http://deb.debian.org/debian-security {SUITE}-security main",
)
USER: Final = "65532:65532"
"""The number that images use for "not root"; Kubernetes cannot check a name."""

# Nobody reads manuals or changes the language in a container.
LEFT_OUT: Final = (
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/info/*",
)
KEPT: Final = "/usr/share/doc/*/copyright"


def packages() -> list[str]:
    """Names of the packages."""
    lines = PACKAGES.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]


def base_layer(cache: Path, *, epoch: int, fresh: bool = False) -> Path:
    """Give the layer, made once for a list of packages and kept in ``cache``.

    ``fresh`` makes it anew, to have the newest security updates.
    """
    text = "\n".join([SUITE, str(epoch), USER, *packages(), *LEFT_OUT])
    key = hashlib.sha256(text.encode()).hexdigest()[:16]
    layer = cache / f"debian-{SUITE}-{key}.tar"
    if fresh or not layer.exists():
        say(f"Debian {SUITE} with {', '.join(packages())}")
        _make(layer, epoch)
    return layer


def dpkg_status(layer: Path) -> str:
    """The list of installed packages, as dpkg keeps it."""
    with tarfile.open(layer) as tar:
        for entry in tar:
            if entry.name.lstrip("./") == "var/lib/dpkg/status":
                file = tar.extractfile(entry)
                return file.read().decode() if file else ""
    raise BuildError(f"{layer} has no package list: remove it and repeat")


def _make(layer: Path, epoch: int) -> None:
    if shutil.which("mmdebstrap") is None:
        raise BuildError("mmdebstrap is not installed: as root, apt-get install mmdebstrap")
    layer.parent.mkdir(parents=True, exist_ok=True)
    user = "drystone:x:65532:65532:drystone:/nonexistent:/usr/sbin/nologin"
    with tempfile.TemporaryDirectory(dir=layer.parent) as folder:
        made = Path(folder) / "base.tar"
        run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                f"--include={','.join(packages())}",
                *(f"--dpkgopt=path-exclude={pattern}" for pattern in LEFT_OUT),
                f"--dpkgopt=path-include={KEPT}",
                f'--customize-hook=echo "{user}" >> "$1/etc/passwd"',
                '--customize-hook=echo "drystone:x:65532:" >> "$1/etc/group"',
                '--customize-hook=rm -rf "$1"/var/cache/apt/* "$1"/var/lib/apt/lists/*',
                "--skip=output/dev",  # the container engine makes them
                SUITE,
                made,
                *([str(SOURCES)] if _is_suite() else MIRRORS),
            ],
            env={"SOURCE_DATE_EPOCH": str(epoch)},
        )
        os.replace(made, layer)  # noqa: PTH105 - within one folder, at once


def _is_suite() -> bool:
    """Whether this machine's own sources, which may name a nearer mirror, are of the suite."""
    return SOURCES.exists() and f"Suites: {SUITE}" in SOURCES.read_text(encoding="utf-8")
