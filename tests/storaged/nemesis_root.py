"""What the root-only tests of the nemesis lab need of the machine, and what must not be left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.e2e.lib.procs import naming
from tests.e2e.nemesis.settings import NAMESPACES, PREFIX, Lab

TOOLS = ("ip", "nft", "tc", "nsenter", "sysctl")
MARKS = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces"),
    pytest.mark.skipif(
        not all(map(shutil.which, TOOLS)) or not Path("/dev/net/tun").exists(),
        reason=f"needs {', '.join(TOOLS)} and /dev/net/tun",
    ),
    # The programs wait for another's run to end; this folder's tests do so one after the other.
    pytest.mark.timeout(300),
]


def everything() -> list[str]:
    """Namespaces and links, those of the Kubernetes lab apart: it may come and go meanwhile."""
    namespaces = NAMESPACES.iterdir() if NAMESPACES.exists() else []
    names = [path.name for path in (*namespaces, *Path("/sys/class/net").iterdir())]
    return sorted(name for name in names if not name.startswith("dskube"))


def nothing_is_left(lab: Lab) -> bool:
    return not (
        [name for name in everything() if name.startswith(PREFIX)]
        or naming(lab.shared)
        or naming(lab.folder)
        or lab.shared.exists()
        or lab.folder.exists()
    )
