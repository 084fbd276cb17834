"""What was seen, reduced to what decisions need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

Json = dict[str, Any]

OTHER_CLUSTER: Final = "other_cluster"


@dataclass(frozen=True, slots=True)
class Taint:
    """A taint of a node."""

    key: str
    value: str
    effect: str


@dataclass(frozen=True, slots=True)
class NodeView:
    """A Kubernetes Node. ``ready`` is None where Kubernetes does not know."""

    name: str
    ready: bool | None
    ready_since: str = ""
    unschedulable: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    addresses: tuple[str, ...] = ()
    hostname: str = ""


@dataclass(frozen=True, slots=True)
class PodView:
    """A pod of ours, or one that uses our volumes."""

    name: str
    namespace: str
    uid: str
    node: str
    component: str = ""
    template: str = ""
    ready: bool = False
    deleting: bool = False
    held: bool = False
    """Our finalizer is on it: deleted or not, it stays until the operator lets it go."""
    finished: bool = False
    """It ended, well or not, and does not start again."""
    running: bool = False
    """Its containers were started, so its volumes are mounted."""
    said: str = ""
    """The error and hint with which its process ended last."""
    volumes: tuple[str, ...] = ()
    """Handles of the volumes of ours that it uses, where they were asked for."""
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workload:
    """A DaemonSet, StatefulSet or Deployment of ours, by its numbers."""

    kind: str
    name: str
    component: str
    desired: int
    ready: int
    template: str = ""

    @property
    def complete(self) -> bool:
        """Whether every wanted pod answers."""
        return self.ready >= self.desired


@dataclass(frozen=True, slots=True)
class MaintenanceView:
    """A maintenance that a manager knows of."""

    until_s: int
    reason: str
    ended: bool = False


@dataclass(frozen=True, slots=True)
class EngineNode:
    """A node as a manager knows it."""

    name: str
    role: str
    connected: bool
    version: str = ""
    fault_set: str = ""
    beacon_connected: bool | None = None
    """Of a storage node whose server uses a beacon of its own; None = inside, or not told."""
    beacon_registered: bool = False
    votes: bool | None = None
    maintenance: MaintenanceView | None = None


@dataclass(frozen=True, slots=True)
class EngineDrive:
    """A drive as a manager knows it."""

    id: int
    uuid: str
    node: str
    state: str
    reason: str = ""
    capacity: int = 0
    used: int | None = None
    resync_left: int = 0
    bad_blocks: int = 0
    in_sync: int = 0
    joining: int = 0
    out: int = 0
    """Placement groups that wait for this drive to come back or to begin with its copy."""
    evacuating: bool = False
    """Whether what it holds goes to other drives."""
    strikes: int = 0
    """How often it was slow or hung in the last day."""
    ejected: bool = False
    """Out because of that, until a person says otherwise."""
    waits: bool = False
    """Out until it passes a test."""
    failed_tests: int = 0
    found: str = ""
    """What its last test found."""
    held: int | None = None
    """Placement groups that count on it in any way; None = not told, by an older manager."""

    @property
    def needed(self) -> bool:
        """Whether any placement group counts on it."""
        return self.groups > 0

    @property
    def groups(self) -> int:
        """How many placement groups count on it."""
        return self.in_sync + self.joining + self.out if self.held is None else self.held

    @property
    def whole(self) -> bool:
        """Whether it has every copy that it shall have."""
        return self.state == "up" and not self.joining and not self.out


@dataclass(frozen=True, slots=True)
class PgCounts:
    """Placement groups by state."""

    total: int = 0
    in_sync: int = 0
    degraded: int = 0
    resyncing: int = 0
    stalled: int = 0
    unavailable: int = 0

    @property
    def all_in_sync(self) -> bool:
        """Whether every copy of every placement group is there and in sync."""
        return self.in_sync == self.total


@dataclass(frozen=True, slots=True)
class EnginePool:
    """A pool as a manager knows it."""

    id: int
    name: str
    copies: int
    min_insync: int
    failure_domain: str
    capacity: int
    used: int
    available: int
    pgs: PgCounts
    drive_class: str = ""


@dataclass(frozen=True, slots=True)
class EngineView:
    """What a manager said in one look."""

    uuid: str
    health: str
    issues: tuple[str, ...]
    nodes: tuple[EngineNode, ...]
    drives: tuple[EngineDrive, ...]
    pgs: PgCounts
    pools: tuple[EnginePool, ...] = ()
    volumes: int | None = None
    pool_volumes: Mapping[str, int] | None = None
    """How many of them each pool has, by its name; a pool without any may be missing."""

    def node(self, role: str, name: str) -> EngineNode | None:
        """A node of a role, by name."""
        return next((n for n in self.nodes if n.role == role and n.name == name), None)

    @property
    def shape(self) -> object:
        """What it says without figures that always move: equal where nothing has happened."""
        drives = tuple(replace(d, used=None, resync_left=0) for d in self.drives)
        return self.uuid, self.health, self.nodes, drives, self.pgs

    def drives_of(self, node: str) -> tuple[EngineDrive, ...]:
        """The drives of a node."""
        return tuple(d for d in self.drives if d.node == node)


@dataclass(frozen=True, slots=True)
class Unanswered:
    """Why no manager gave a view: a code and a sentence."""

    code: str
    message: str

    @property
    def is_other(self) -> bool:
        """Whether managers did answer, but as another cluster: then nothing at all is done."""
        return self.code == OTHER_CLUSTER


@dataclass(frozen=True, slots=True)
class Device:
    """A device of a node, as its server found it."""

    id: str
    path: str
    size: int
    drive_class: str
    state: str
    found: str = ""
    serial: str = ""
    wwn: str = ""
    model: str = ""
    drive: str = ""
    wanted: str = ""
    """How far its server is with taking it: pending, formatting, opening, up, refused."""
    reason: str = ""
    configured: bool = False
    """A drive of the server's own settings."""
