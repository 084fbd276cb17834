"""Building with a container engine, from the Dockerfile."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from scripts.image.shell import BuildError, run, say

ENGINES: Final = ("docker", "podman", "buildah")
LOOK_S: Final = 15.0  # a client whose daemon is away may wait for it


def find(wanted: str) -> str | None:
    """The engine to use; None = build without one."""
    if wanted == "archive":
        return None
    if wanted in ENGINES:
        if not works(wanted):
            raise BuildError(
                f"{wanted} does not work here: try '{wanted} info', or --engine archive"
            )
        return wanted
    return next((engine for engine in ENGINES if works(engine)), None)


def works(engine: str) -> bool:
    """Whether it is installed and answers; a client alone builds nothing."""
    if shutil.which(engine) is None:
        return False
    try:
        run([engine, "info"], timeout_s=LOOK_S)
    except BuildError:
        return False
    return True


def build(engine: str, name: str, output: Path) -> str:
    """Build, and write the image to an archive; gives its digest."""
    output.parent.mkdir(parents=True, exist_ok=True)
    say(f"building with {engine}")
    if engine == "buildah":
        run(["buildah", "build", "--tag", name, "."])
        run(["buildah", "push", name, f"docker-archive:{output}:{name}"])
        return run(
            ["buildah", "inspect", "--type", "image", "--format", "{{.FromImageDigest}}", name]
        )
    run([engine, "build", "--tag", name, "."])
    output.unlink(missing_ok=True)
    run([engine, "save", "--output", output, name])
    return run([engine, "image", "inspect", "--format", "{{.Id}}", name]).strip()
