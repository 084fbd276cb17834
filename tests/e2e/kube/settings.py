"""What the lab is made of and where it is; every other module takes this as its argument."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.e2e.lib import shell

NODES_MAX: Final = 9  # one digit in every name and address; more do not fit a machine anyway

NODES_FILE: Final = "nodes"  # how many there are, in the folder of a lab that runs

BRIDGE: Final = "dskube0"
NET: Final = "10.198.0"  # the host is .1, node N is .(10+N)
HOST: Final = f"{NET}.1"
POD_NET: Final = "10.243"  # node N hands out POD_NET.N.0/24
SERVICE_NET: Final = "10.97.0"  # the API is .1
API: Final = f"https://{HOST}:6443"
DOMAIN: Final = "cluster.local"

# That of the programs it runs, under the name that all of the lab knows it by.
LabError = shell.LabError


@dataclass(frozen=True, slots=True)
class Lab:
    """Where everything is. ``folder`` is gone after `down`; ``cache`` is kept between runs."""

    folder: Path
    cache: Path
    node_count: int = 3

    @property
    def bin(self) -> Path:
        """Programs that were built."""
        return self.cache / "bin"

    @property
    def kubeconfig(self) -> Path:
        """For kubectl and helm, with all rights."""
        return self.folder / "admin.kubeconfig"

    @property
    def pki(self) -> Path:
        """Certificates and keys."""
        return self.folder / "pki"

    @property
    def log(self) -> Path:
        """Logs of the control plane; those of a node are in its folder."""
        return self.folder / "log"

    def node(self, number: int) -> Path:
        """What a node has on its disk."""
        return self.folder / node_name(number)

    def numbers(self) -> range:
        """Numbers of all nodes."""
        return range(1, self.node_count + 1)

    def program(self, name: str) -> str:
        """Path of a program that was built."""
        return str(self.bin / name)


def node_name(number: int) -> str:
    """Name of a node, also in Kubernetes."""
    return f"node-{number}"


def node_address(number: int) -> str:
    """Address of a node."""
    return f"{NET}.{10 + number}"


def from_environment() -> Lab:
    """The lab as DRYSTONE_KUBE_* variables describe it; a running one knows its own size."""
    base = os.environ.get("XDG_CACHE_HOME")
    cache = (Path(base) if base else Path.home() / ".cache") / "drystone" / "kube"
    folder = Path(os.environ.get("DRYSTONE_KUBE_DIR", "/tmp/drystone-kube")).absolute()
    chosen = Path(os.environ.get("DRYSTONE_KUBE_CACHE", cache)).absolute()
    try:
        text = (folder / NODES_FILE).read_text()
    except FileNotFoundError:
        text = os.environ.get("DRYSTONE_KUBE_NODES", "3")
    if not text.strip().isdecimal() or not 1 <= int(text) <= NODES_MAX:
        raise LabError(f"DRYSTONE_KUBE_NODES must be 1 to {NODES_MAX}, not {text.strip()!r}")
    return Lab(folder, chosen, int(text))
