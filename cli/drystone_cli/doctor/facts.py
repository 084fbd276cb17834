"""What is known of a node and of a cluster: plain values, None where nobody could tell. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

MODULES: Final = ("nbd", "fuse", "loop", "ublk_drv")

LOADED: Final = "loaded"
AVAILABLE: Final = "available"
ABSENT: Final = "absent"

FREE: Final = "free"

KUBELET_DIR: Final = "/var/lib/kubelet"  # kubelet's own default


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One machine, as seen from it."""

    node: str = ""
    root: bool | None = None
    kernel: str | None = None
    io_uring: bool | None = None
    modules: Mapping[str, str | None] = field(default_factory=dict)
    """``loaded`` (or built in), ``available`` or ``absent``, by name."""
    fuse_device: bool | None = None
    loop_control: bool | None = None
    cgroup: int | None = None
    memory_total: int | None = None
    memory_available: int | None = None
    hugepages: int | None = None
    kubelet_dir: str | None = None
    kubelet_shared: bool | None = None
    """Whether mounts made there by a pod reach the machine."""
    ports: Mapping[str, str] = field(default_factory=dict)
    """``tcp 8470`` to ``free`` or the name of the program that has it."""
    clock: float | None = None
    clock_synchronized: bool | None = None
    interface: str | None = None
    mtu: int | None = None
    peers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Address to ``{"whole": bool|None, "ports": {"8470": bool}}``: do packets of the full size
    arrive there, and do its ports answer."""
    names: Mapping[str, bool] = field(default_factory=dict)
    """Whether a host name was found."""

    def as_dict(self) -> dict[str, Any]:
        """For programs, and for `from_dict` of another version."""
        return asdict(self)


def node_facts(data: Mapping[str, Any]) -> NodeFacts:
    """From another process, perhaps of another version: what is not known is left out."""
    known = {f.name for f in fields(NodeFacts)}
    mappings = ("modules", "ports", "peers", "names")
    found = {
        key: value
        for key, value in data.items()
        if key in known and (key not in mappings or isinstance(value, dict))
    }
    return NodeFacts(**found)


@dataclass(frozen=True, slots=True)
class ClockBounds:
    """What a node's clock is ahead of ours: at least, at most, in seconds.

    A program in a pod takes a second to start, so its answer bounds the difference and no more.
    """

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class KubeNode:
    """A node, as Kubernetes tells."""

    name: str
    ready: bool
    address: str = ""
    kernel: str = ""
    kubelet: str = ""
    ours: bool = False
    """Whether processes of Drystone run there."""


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """A Kubernetes, and Drystone in it."""

    version: tuple[int, int] | None = None
    namespace: str = ""
    namespace_there: bool | None = None
    enforce: str | None = None
    """Label of pod security admission; empty = none."""
    crds: bool | None = None
    driver: bool | None = None
    storage_cluster: str = ""
    default_classes: tuple[str, ...] | None = None
    snapshot_definitions: bool | None = None
    snapshot_controller: bool | None = None
    nodes: tuple[KubeNode, ...] = ()
    managers: str | None = None
    """Why no manager could be asked; empty = one answered."""
    not_probed: Mapping[str, str] = field(default_factory=dict)
    """Why a node could not be looked at from within."""
    clocks: Mapping[str, ClockBounds] = field(default_factory=dict)
